"""Java's exceptions in words: which error of ours each is, and what to do about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from pyserini_llm_sparse.errors import DataError, LlmSparseError, PrerequisiteError, ResourceError, RunError
from pyserini_llm_sparse.system import last_line

_LONGEST = 300
# An exception's class with what it says, at the start of a line of a stack trace or after pyjnius' words.
_EXCEPTION = re.compile(
    r"(?:^|[\s:])(?!jnius\.)((?:[a-z_][\w$]*\.)+[A-Z][\w$]*(?:Exception|Error|Throwable)\b(?::[^\r\n]*)?)"
)
_MEANINGS: tuple[tuple[str, type[LlmSparseError], str], ...] = (
    ("No space left on device|Disk quota exceeded|File too large", ResourceError,
     "disk full; free some space and give the same command again"),
    ("LockObtainFailed", RunError, "another process is writing it; wait for that, or choose another index"),
    ("AccessDenied|Permission denied|Read-only file system", ResourceError,
     "may not be read or written; check who owns it, or choose another place"),
    ("InvalidPathException", ResourceError,
     "Java cannot read names in these letters here; set LC_ALL=C.UTF-8, or use ASCII"),
    ("OutOfMemoryError", ResourceError,
     "Java's memory does not suffice; give it more by JAVA_TOOL_OPTIONS=-Xmx8g, or use fewer threads"),
    ("IndexFormatToo(?:Old|New)|Could not load codec|An SPI class", DataError,
     "written by another version of Lucene; index the vectors again"),
    ("CorruptIndex|IndexNotFound|NoSuchFile|FileNotFound|EOFException|ArrayIndexOutOfBounds", DataError,
     "the index is damaged or not whole; index the vectors again"),
    ("UnsupportedClassVersion", PrerequisiteError, "this Java is too old; `doctor` tells which one to use"),
    ("immense term|MaxBytesLengthExceeded", DataError,
     "an id or a term is longer than Lucene takes (32,766 bytes); shorten it"),
)  # fmt: skip


def exception_line(printed: str) -> str | None:
    """Return the last exception of Java that a command printed, by its class and what it says; None if there is none.

    >>> exception_line("a.b.SomeException: no\\n\\tat x.Y.main(Y.java:3)\\nCaused by: java.io.IOException: disk\\n")
    'java.io.IOException: disk'
    """
    found = _EXCEPTION.findall(printed)
    return " ".join(found[-1].split())[:_LONGEST] if found else None


def failure(where: str | Path, what: str, printed: str) -> LlmSparseError:
    """Return the error for what a command of Java's has printed, or an exception of Java's has said.

    Args:
        where: The index, for the message.
        what: What failed.
        printed: Its words, with or without a stack trace.
    """
    reason = exception_line(printed)
    for words, kind, meaning in _MEANINGS:
        # Java may end well after it has printed this, so that other exceptions follow.
        if re.search(words, printed):
            first = next((line for line in _EXCEPTION.findall(printed) if re.search(words, line)), reason)
            told = " ".join((first or last_line(printed)).split())[:_LONGEST]
            return kind(f"{where}: {what}: {told}: {meaning}")
    return RunError(f"{where}: {what}: {reason or last_line(printed)}")


@contextlib.contextmanager
def java_errors(where: str | Path, what: str) -> Iterator[None]:
    """Turn an exception of Java, as pyjnius brings it, into one of ours.

    Args:
        where: The index, for the message.
        what: What is done with it (``cannot be searched``).

    Raises:
        LlmSparseError: Of the class that fits; see `failure`.
    """
    from jnius import JavaException

    try:
        yield
    except JavaException as error:
        said = f"{error.classname}: {error.innermessage}" if error.classname else str(error)
        raise failure(where, what, said) from error

"""Java's exceptions in what a command prints, or as pyjnius brings them: errors of ours, by the table of `errors`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from pyserini_llm_sparse.errors import JAVA_FAILED, LlmSparseError, RunError, java_meaning, java_words
from pyserini_llm_sparse.system import last_line

_LONGEST = 300
# An exception's class with what it says, at the start of a line of a stack trace or after pyjnius' words.
_EXCEPTION = re.compile(
    r"(?:^|[\s:])(?!jnius\.)((?:[a-z_][\w$]*\.)+[A-Z][\w$]*(?:Exception|Error|Throwable)\b(?::[^\r\n]*)?)"
)


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
    if reason is None and java_meaning(printed) is None:
        return RunError(f"{where}: {what}: {last_line(printed)}")
    meant = java_meaning(printed) or java_meaning(reason or "") or JAVA_FAILED
    # Java may end well after it has printed this, so that other exceptions follow.
    first = next((line for line in _EXCEPTION.findall(printed) if re.search(meant.words, line)), reason)
    told = " ".join((first or last_line(printed)).split())[:_LONGEST]
    return meant.kind(f"{where}: {what}: {told}: {meant.remedy}")


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
        raise failure(where, what, java_words(error) or str(error)) from error

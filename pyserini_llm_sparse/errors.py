"""The exceptions of the package, each with the exit code that a command ends with, and what others' errors become.

Every message is one line, ``where: what: why; remedy``, so that it can be read in a terminal and in a log.

    LlmSparseError              6  a run failed
    ├── UsageError              2  the arguments do not make sense together
    ├── PrerequisiteError       3  a JDK, an extra or a version is missing
    ├── ResourceError           4  a file, a model or disk space is missing
    ├── DataError               5  a record or a file's content is bad
    │   └── SpecMismatchError   5  two vectors were not made under the same encoding spec
    ├── RunError                6  a step of a run failed
    └── PartialError            7  finished, but some records were skipped
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TRACEBACK = "PYSERINI_LLM_SPARSE_TRACEBACK"


class LlmSparseError(Exception):
    """The base of all errors that the package raises on purpose."""

    exit_code = 6


class UsageError(LlmSparseError):
    """The caller's arguments are unknown or contradict each other."""

    exit_code = 2


class PrerequisiteError(LlmSparseError):
    """Something that must be installed is missing or has an unfit version."""

    exit_code = 3


class ResourceError(LlmSparseError):
    """A file, a model or disk space that is needed is not there."""

    exit_code = 4


class OutOfMemoryError(ResourceError):
    """A batch does not fit into memory; a smaller one may."""


class DataError(LlmSparseError):
    """A record, a file or a checkpoint holds something that cannot be used."""

    exit_code = 5


class SpecMismatchError(DataError):
    """Vectors that are to be compared were defined differently."""


class RunError(LlmSparseError):
    """A step of a run failed although its input was in order."""


class PartialError(LlmSparseError):
    """The work was finished, but some records were skipped and reported."""

    exit_code = 7


def wants_traceback() -> bool:
    """Tell whether the environment asks for tracebacks of errors, by the variable `TRACEBACK`."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def one_line(error: BaseException) -> str:
    """Return what a library's exception says as one line of at most 300 characters; its kind if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def at(path: str | Path, line: int | None = None) -> str:
    """Return the ``where`` of a message: ``path`` or ``path:line`` (lines count from 1)."""
    return f"{path}" if line is None else f"{path}:{line}"


def require_version(package: str, found: str, least: tuple[int, int], need: str) -> None:
    """Refuse a version of a package that is too old for what is needed of it.

    Raises:
        PrerequisiteError: Its first two numbers are less than `least`.
    """
    if tuple(int(part) for part in found.split(".")[:2]) < least:
        wanted = ".".join(map(str, least))
        raise PrerequisiteError(f"{package} {found}: too old: {need} needs {wanted}; pip install '{package}>={wanted}'")


class _Row(NamedTuple):
    """What errors of other libraries become.

    Attributes:
        sources: Beginnings of the errors' full class names, or libraries that an error of any class came out of.
        kind: Our class.
        what: What is wrong; the library's own words follow.
        remedy: What to do.
    """

    sources: tuple[str, ...]
    kind: type[LlmSparseError]
    what: str
    remedy: str


class JavaRow(NamedTuple):
    """What exceptions of Java become.

    Attributes:
        words: A pattern in what they say.
        kind: Our class.
        remedy: What is wrong, and what to do.
    """

    words: str
    kind: type[LlmSparseError]
    remedy: str


# The first row that fits counts: classes say more than the library that an error came out of.
_FOREIGN = (
    _Row(("builtins.MemoryError", "torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"),
         ResourceError, "memory: not enough", "choose a smaller --batch-size"),
    _Row(("huggingface_hub.errors.HFValidationError",), DataError, "hub: not a name on the hub", "check the name"),
    _Row(("requests.", "urllib3.", "urllib.error.", "httpx.", "httpcore.", "socket.", "ssl.",
          "builtins.ConnectionError", "builtins.TimeoutError", "huggingface_hub."),
         ResourceError, "network: something cannot be downloaded", "connect, or use what is on this machine already"),
    _Row(("safetensors",), DataError, "safetensors: the weights cannot be read", "restore or download them again"),
    _Row(("onnxruntime.",), RunError, "ONNX Runtime: failed", "export the model again, or use torch"),
    _Row(("json.", "orjson.", "pydantic", "yaml.", "builtins.UnicodeDecodeError", "builtins.EOFError", "gzip.", "zlib.",
          "_lzma.", "lzma.", "zipfile.", "zstandard.", "zstd."),
         DataError, "a file: damaged, or not of its kind", "restore or download it again"),
    _Row(("subprocess.",), RunError, "a command: failed", "run it by itself to see why"),
    _Row(("ir_datasets",), ResourceError, "ir_datasets: cannot give the data",
         "check the network, or the files in ~/.ir_datasets"),
    _Row(("peft",), DataError, "peft: the adapter cannot be used", "check its adapter_config.json and its base"),
    _Row(("tokenizers", "builtins.Exception"),  # tokenizers has no class of its own
         DataError, "tokenizers: the tokenizer cannot be used", "restore the model's tokenizer files"),
    _Row(("transformers",), DataError, "transformers: the model cannot be used", "check its config.json and its files"),
    _Row(("onnx", "optimum"), RunError, "onnx: failed", "export with another --builder"),
    _Row(("torch",), RunError, "torch: failed", "lower the batch size, or use --device cpu"),
    _Row(("datasets",), ResourceError, "datasets: cannot give the data", "check the name, and the network"),
    _Row(("accelerate",), RunError, "accelerate: failed", "check its configuration"),
)  # fmt: skip
# The first row that fits counts.
_JAVA = (
    JavaRow("No space left on device|Disk quota exceeded|File too large", ResourceError,
     "disk full; free some space and give the same command again"),
    JavaRow("LockObtainFailed", RunError, "another process is writing it; wait for that, or choose another index"),
    JavaRow("AccessDenied|Permission denied|Read-only file system", ResourceError,
     "may not be read or written; check who owns it, or choose another place"),
    JavaRow("InvalidPathException", ResourceError,
     "Java cannot read names in these letters here; set LC_ALL=C.UTF-8, or use ASCII"),
    JavaRow("OutOfMemoryError: unable to create|Cannot allocate memory|Map failed", ResourceError,
     "the system gives Java no more memory or threads; use fewer --threads, or raise its limits (ulimit, cgroup)"),
    JavaRow("OutOfMemoryError", ResourceError,
     "Java's memory does not suffice; give it more by JAVA_TOOL_OPTIONS=-Xmx8g, or use fewer threads"),
    JavaRow("Too many open files", ResourceError, "raise the limit of open files (ulimit -n)"),
    JavaRow("IndexFormatToo(?:Old|New)|Could not load codec|An SPI class", DataError,
     "written by another version of Lucene; index the vectors again"),
    JavaRow("CorruptIndex|IndexNotFound|NoSuchFile|FileNotFound|EOFException|ArrayIndexOutOfBounds", DataError,
     "the index is damaged or not whole; index the vectors again"),
    JavaRow("UnsupportedClassVersion", PrerequisiteError, "this Java is too old; `doctor` tells which one to use"),
    JavaRow("immense term|MaxBytesLengthExceeded", DataError,
     "an id or a term is longer than Lucene takes (32,766 bytes); shorten it"),
    JavaRow("vector's dimensions must be <=", DataError, "Lucene takes no vectors of so many dimensions; use faiss"),
    JavaRow("differs from field dimension", DataError, "another model made the index; search with that one"),
    # From here on by the class, at the beginning.
    JavaRow(r"^[\w.$]*AlreadyClosedException", RunError, "the index was closed before; open it again"),
    JavaRow(r"^java\.lang\.(?:\w*ClassDef|ClassNotFound|NoSuch|\w*Link|Incompatible|ExceptionInInit)|^Class not found",
     PrerequisiteError, "Pyserini's jar lacks it, or this Java does not fit; `doctor` tells which one to use"),
    JavaRow(r"^javax?\.net\.", ResourceError, "a download failed; connect, or use what this machine has"),
    JavaRow(r"^java\.(?:nio\.file|io)\.", ResourceError,
     "a file cannot be read or written; check the index, and the disk that it is on"),
)  # fmt: skip
JAVA_FAILED = JavaRow("", RunError, "Java failed; PYSERINI_VERBOSE_JVM=1 lets through what it prints")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


# What libraries that write by themselves say when nothing more can be written: safetensors' Rust, and torch's archives.
_SAYS_FULL_DISK = re.compile(
    r"No space left|os error (28|122|27)\)|PytorchStreamWriter|inline_container.*unexpected pos"
)


def says_full_disk(error: BaseException) -> bool:
    """Tell whether an error, neither ours nor of the operating system, says that the disk is full."""
    return not isinstance(error, LlmSparseError | OSError) and _SAYS_FULL_DISK.search(str(error)) is not None


def explained(error: BaseException) -> LlmSparseError | None:
    """Return what an error of another library means, by one table; ours as it is; None for what can only be a bug.

    Args:
        error: Any exception, with its traceback.
    """
    if isinstance(error, LlmSparseError):
        return error
    names = _names(error)
    said = one_line(error)
    if "can't allocate" in said:
        return ResourceError(f"memory: not enough: {said}; choose a smaller --batch-size")
    if "home directory" in said and isinstance(error, RuntimeError):
        return ResourceError(f"home: there is none: {said}; set HOME to a folder that you may write to")
    if says_full_disk(error):
        return ResourceError(f"disk full: {said}; free some space and give the same command again")
    if java := java_words(error):
        meant = java_meaning(java) or JAVA_FAILED
        return meant.kind(f"Java: {java}: {meant.remedy}")
    for row in _FOREIGN:
        if any(name.startswith(row.sources) for name in names):
            return row.kind(f"{row.what}: {said}; {row.remedy}")
    if isinstance(error, OSError):
        where = error.filename or "a file"
        full = error.errno in FULL_DISK
        remedy = "make room" if full else "check the path, and whether you may use it"
        return ResourceError(f"{where}: cannot be read or written: {error.strerror or said}; {remedy}")
    libraries = list(_libraries(error))
    for row in _FOREIGN:
        if any(library.startswith(row.sources) for library in libraries[-1:]):
            return row.kind(f"{row.what}: {said}; {row.remedy}")
    return None


def java_words(error: BaseException) -> str | None:
    """Return an exception of Java's, as pyjnius brings it, by its class and what it says; None if it is no such."""
    if name := getattr(error, "classname", None):
        return f"{str(name).replace('/', '.')}: {getattr(error, 'innermessage', None) or first_line(error)}"
    return one_line(error) if type(error).__module__.partition(".")[0] == "jnius" else None


def java_meaning(said: str) -> JavaRow | None:
    """Return what Java's exceptions mean by the one table of them, None for one that it does not know.

    Args:
        said: An exception's class and what it says; or all that a command has printed, in which only words that leave
            no doubt count.
    """
    return next((row for row in _JAVA if re.search(row.words, said)), None)


def _names(error: BaseException) -> list[str]:
    """Return the full names of an error's classes that tell something."""
    kinds = [one for one in type(error).__mro__ if one not in (OSError, Exception, BaseException, object)]
    names = [f"{one.__module__}.{one.__qualname__}" for one in kinds]
    if type(error) is Exception:
        names.append("builtins.Exception")
    return names


def _libraries(error: BaseException) -> Iterator[str]:
    """Yield the libraries that an error went through, from ours to the one that raised it."""
    trace = error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if name and name not in sys.stdlib_module_names:
            yield name
        trace = trace.tb_next

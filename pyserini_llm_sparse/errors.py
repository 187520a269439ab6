"""The exceptions of the package, each with the exit code that a command ends with.

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

import os
from pathlib import Path

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

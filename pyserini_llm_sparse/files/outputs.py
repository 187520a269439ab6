"""The guard of outputs: whether a file or a folder may be written, asked before any work is done."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection
from pathlib import Path

from pyserini_llm_sparse.errors import ResourceError, UsageError
from pyserini_llm_sparse.files.atomic import disk_errors, mode_of


def require_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or that would replace another one unasked.

    A link stands for what it leads to. A character device (``/dev/null``, a terminal) or a pipe may always be written
    to: nothing is replaced.

    Raises:
        UsageError: It is a folder, a disk or a socket, or exists and may not be replaced.
        ResourceError: The folder that it would be in does not exist, or links lead in a circle.
    """
    with disk_errors(path):
        mode = mode_of(path)
    if mode is None:
        parent = path.resolve().parent if path.is_symlink() else path.parent
        if not parent.is_dir():
            raise ResourceError(f"{path}: cannot be written: there is no folder {parent}; make it")
    elif stat.S_ISDIR(mode):
        raise UsageError(f"{path}: is a folder: a file is written; name one in it")
    elif stat.S_ISREG(mode):
        if not overwrite:
            raise _exists(path)
    elif not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise UsageError(f"{path}: is a disk or a socket: a file is written; choose another output")


def require_folder(folder: Path, overwrite: bool, what: str = "", marks: Collection[str] = ()) -> None:
    """Refuse a folder that cannot be written, or that would replace what it holds unasked; its parents are made.

    Args:
        folder: The folder. One that is missing or empty may always be written.
        overwrite: Whether what it holds may be replaced.
        what: What of its kind is called, for the message (``checkpoint``).
        marks: Names of files or patterns of names, any of which tells that the folder holds one of that kind; without
            any of them it is refused even if it may be overwritten. None given: whatever it holds is of that kind.

    Raises:
        UsageError: It is a file, holds something else, or holds an earlier output and may not be replaced.
    """
    _require_no_file(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if marks and not any(path.is_file() for mark in marks for path in folder.glob(mark)):
        raise something_else(folder, f"there are files but no {what}")
    if not overwrite:
        raise _exists(folder)


def require_only(folder: Path, names: re.Pattern[str], why: str) -> None:
    """Refuse a folder that holds anything but files with certain names.

    Args:
        folder: The folder.
        names: What the names are like.
        why: What is wrong with another file, to follow its name (``is not a file of vectors``).

    Raises:
        UsageError: It holds another file, or is one.
    """
    _require_no_file(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not names.fullmatch(path.name):
            raise something_else(folder, f"{path.name} {why}")


def something_else(folder: Path, why: str) -> UsageError:
    """Return the error for a folder with files that are not ours to remove."""
    return UsageError(f"{folder}: holds something else: {why}; move that, or choose another output")


def _require_no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file: a folder is written; choose another output")


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path}: exists already: it would be replaced; choose another output, or give --overwrite")

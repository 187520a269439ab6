"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pyserini_llm_sparse.errors import FULL_DISK, ResourceError, one_line, says_full_disk

_UNFINISHED, _REPLACED = ".unfinished", ".replaced"  # suffixes of hidden folders
_FULL = (*FULL_DISK, errno.EFBIG)


@contextlib.contextmanager
def atomic_file(path: Path, staging: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is complete and on disk.

    A link is followed: the file that it leads to is written. A device or a pipe is written to, and stays what it is.

    Args:
        path: The file's name in the end.
        staging: Folder for the unfinished file, on the same file system; None for the folder of the path. Vectors need
            one, for Lucene reads every file beside them, hidden ones too.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written to. The unfinished file is removed.
    """
    with disk_errors(path):
        mode = mode_of(path)
        if mode is not None and not stat.S_ISREG(mode):
            with path.open("wb") as stream:
                yield stream
            return
        if path.is_symlink():
            path, staging = path.resolve(), None  # what a link leads to may be on another file system
        handle, name = tempfile.mkstemp(dir=staging or path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask() if mode is None else stat.S_IMODE(mode))
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def mode_of(path: Path) -> int | None:
    """Return the type and permissions of what a path leads to, through links; None if that is nothing.

    Raises:
        OSError: It cannot be told, as for links that lead in a circle.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder, which takes the place of `folder` and what it holds when the block ends without an error.

    A link is followed: the folder that it leads to is replaced. What killed processes left beside it is removed.

    Raises:
        ResourceError: The disk is full, or the parent folder cannot be written to.
    """
    with disk_errors(folder):
        mode_of(folder)  # links that lead in a circle cannot be resolved
        folder = folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(folder, _UNFINISHED)
        with _beside(folder, _UNFINISHED) as temporary:
            yield temporary
            temporary.chmod(0o755)
            for path in temporary.rglob("*"):
                # mkdtemp and safetensors make things private; a model is read by others, too
                path.chmod(0o755 if path.is_dir() else 0o644)
            _replace_folder(temporary, folder)
            sync_folder(folder.parent)
        _remove_left(folder, _REPLACED)  # not before: a process may have been killed with the only copy in there


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a `ResourceError` that names the path and a remedy."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads a pipe has seen enough
    except Exception as error:
        if not isinstance(error, OSError):
            if not says_full_disk(error):
                raise
            raise _full_disk(path, one_line(error)) from error
        if error.errno in _FULL:
            raise _full_disk(path, str(error.strerror)) from error
        if error.errno == errno.EXDEV:
            raise ResourceError(
                f"{path}: cannot be put in place: its folder is a mount point of its own; choose a folder inside it"
            ) from error
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}; choose another place") from error


def _full_disk(path: Path, why: str) -> ResourceError:
    return ResourceError(
        f"{path}: disk full: {why}; free some space and give the same command again, finished parts are kept"
    )


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power loss, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in a place, which may hold an older one."""
    if not target.exists():
        new.replace(target)
        return
    with _beside(target, _REPLACED) as old:
        target.replace(old / "former")
        try:
            new.replace(target)
        except BaseException:
            (old / "former").replace(target)
            raise


@contextlib.contextmanager
def _beside(folder: Path, suffix: str) -> Iterator[Path]:
    """Make a hidden folder beside another one, locked for as long as it is used, and remove it in the end."""
    while True:
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=suffix))
        lock = _locked(made, alone=False)
        if made.is_dir():  # else another process took it for one that was left, just before it was locked
            break
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left(folder: Path, suffix: str) -> None:
    """Remove the hidden folders that processes which were killed left beside a folder."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.????????{suffix}"):
        if (lock := _locked(left, alone=True)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path, alone: bool) -> int | None:
    """Lock a folder until the descriptor that is returned is closed, or this process ends, however that happens.

    Args:
        folder: The folder.
        alone: Whether to give up if any other process has it locked, in place of waiting for one that has it alone.

    Returns:
        None if it is not locked, as on systems and file systems that cannot: nothing is removed there.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except OSError:
        os.close(handle)
        return None
    return handle

"""The folder of unfinished work beside an output: whose it is, what is finished of it, and who is at it.

A process that is killed at any point leaves nothing that its successor could take for finished: every record is
written under another name, synced and renamed. The folder goes when the output is whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from pyserini_llm_sparse.errors import DataError, LlmSparseError, ResourceError, RunError, one_line
from pyserini_llm_sparse.files.atomic import atomic_file, disk_errors

_logger = logging.getLogger(__name__)

LOCK = "lock"  # name or suffix of files that are locked
_ATTEMPTS = 10
_LONGEST_VALUE = 200  # characters of a value in a message
_UNREADABLE = (ValueError, TypeError, KeyError)  # what parsing raises; pydantic's and orjson's errors are ValueErrors

T = TypeVar("T")


class Work:
    """The folder, for one process at a time; with locks and staging folders of their own, for several.

    Attributes:
        output: What is being made.
        folder: The folder.
        staging: Where files lie while they are written.
    """

    def __init__(self, output: Path, folder: Path, lock: str = LOCK, staging: str = "") -> None:
        """Name the folder; `take` makes it.

        Args:
            output: What is being made, for the messages.
            folder: The folder, on the same file system.
            lock: Name of the file in it that is locked: `LOCK`, or with that as suffix.
            staging: Name of a folder in it for half-written files; empty for the folder itself.
        """
        self.output, self.folder, self.staging = output, folder, folder / staging
        self._lock = FileLock(folder / lock)
        self._identity: os.stat_result | None = None  # of the lock's file, while it is held

    def take(self, look: Callable[[], None] = lambda: None) -> None:
        """Take the lock, and remove what a killed process left half-written.

        Args:
            look: Finds out what is there, with the lock; if it raises an error, the lock is given back.

        Raises:
            RunError: Another process has the lock.
            ResourceError: The folder cannot be written to.
        """
        self._identity = _acquire(self._lock, self.output)
        try:
            with disk_errors(self.folder):
                self.staging.mkdir(exist_ok=True)
                for left in self.staging.glob(".*.tmp"):
                    left.unlink()
            look()
        except BaseException:
            self.release()
            raise

    def is_there(self) -> bool:
        """Tell whether the lock is still that of the folder, and not of one that another process has finished with."""
        return self._identity is not None and _is(Path(self._lock.lock_file), self._identity)

    def release(self) -> None:
        """Give the lock back; what is finished stays for the next process."""
        self._lock.release(force=True)
        self._identity = None

    def write(self, name: str, content: bytes) -> None:
        """Put a file into the folder, whole or not at all.

        Raises:
            ResourceError: The disk is full, or the folder cannot be written to.
        """
        with atomic_file(self.folder / name, self.staging) as stream:
            stream.write(content)

    def records(self, pattern: str, parse: Callable[[bytes], T]) -> list[T]:
        """Return the records with names like a pattern, in the order of the names; see `record`.

        Raises:
            ResourceError: One cannot be read.
        """
        found = [record(path, parse) for path in sorted(self.folder.glob(pattern))]
        return [one for one in found if one is not None]

    def clear(self) -> None:
        """Remove everything but the locks, to begin anew.

        Raises:
            ResourceError: The folder cannot be written to.
        """
        with disk_errors(self.folder):
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    if path != self.staging:
                        shutil.rmtree(path)
                elif path.name != LOCK and path.suffix != f".{LOCK}":
                    path.unlink()

    def remove(self) -> None:
        """Remove the folder, since the output is whole, and give the lock back."""
        shutil.rmtree(self.folder, ignore_errors=True)  # while it is locked: nobody begins in a folder that vanishes
        self.release()
        if os.name == "nt":  # which does not remove a file that is open
            shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def held(output: Path, *locks: Path) -> Iterator[None]:
    """Hold the locks of an output, all or none.

    Raises:
        RunError: Another process has one of them.
        ResourceError: The lock's file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        for path in locks:
            lock = FileLock(path)
            _acquire(lock, output)
            stack.callback(lock.release)
        yield


def remove_lock(path: Path) -> None:
    """Remove the file of a lock that this process holds, since nothing is left to be guarded."""
    with contextlib.suppress(PermissionError):  # on Windows, which does not remove a file that is open
        path.unlink(missing_ok=True)


def record(path: Path, parse: Callable[[bytes], T]) -> T | None:
    """Return the record of what is finished, None if there is none.

    A damaged one is removed, so that what it records is made again and nothing else is lost with it.

    Raises:
        ResourceError: It cannot be read.
    """
    try:
        return load(path, parse)
    except DataError as error:
        _logger.warning("%s: damaged: %s; what it records is made again", path, _reason(error.__cause__))
        path.unlink(missing_ok=True)
        return None


def load(path: Path, parse: Callable[[bytes], T]) -> T | None:
    """Return what a file of a run's state says, None if there is no such file.

    Raises:
        DataError: It is damaged.
        ResourceError: It cannot be read.
    """
    try:
        return parse(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _UNREADABLE as error:
        raise DataError(f"{path}: damaged: {_reason(error)}; give --overwrite to start again") from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def require_same(
    where: Path, now: Mapping[str, Any], before: Mapping[str, Any], error: type[LlmSparseError] = DataError
) -> None:
    """Refuse to go on with what was begun as something else.

    Args:
        where: The output or the folder of its work, for the message.
        now: All that the bytes of the output depend on.
        before: The same of what is there.
        error: What is raised.

    Raises:
        LlmSparseError: `error`, naming each difference with both values.
    """
    if differing := list(differences(now, before)):
        raise error(
            f"{where}: was begun with other settings or data: {'; '.join(differing)}; restore them, choose another "
            "output, or give --overwrite to start again"
        )


def differences(now: Any, before: Any, name: str = "") -> Iterator[str]:
    """Yield each field, also those inside of others, that is not what it was before; one that is missing is None.

    >>> list(differences({"seed": 7, "train": {"size": 2}}, {"seed": 42, "train": {"size": 1}}))
    ['seed is 7 here, 42 there', 'train.size is 2 here, 1 there']
    """
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        for key in sorted({*now, *before}):
            yield from differences(now.get(key), before.get(key), f"{name}.{key}" if name else key)
    elif _are_tables(now, before):
        for number, (own, other) in enumerate(zip(now, before, strict=True)):
            yield from differences(own, other, f"{name}[{number}]")
    elif now != before:
        yield f"{name} is {_shown(now)} here, {_shown(before)} there"


def _are_tables(now: Any, before: Any) -> bool:
    """Tell whether both are sequences of the same number of mappings, such as the files of a corpus."""
    both = (now, before)
    return all(
        isinstance(one, list | tuple) and len(one) == len(now) and all(isinstance(row, Mapping) for row in one)
        for one in both
    )


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."


def _reason(error: BaseException | None) -> str:
    """Return in a line why a file could not be parsed."""
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return one_line(error) if error is not None else ""


def _acquire(lock: FileLock, output: Path) -> os.stat_result:
    """Take a lock without waiting. Returns what its file is, to be recognised by."""
    path = Path(lock.lock_file)
    with disk_errors(path):
        for _ in range(_ATTEMPTS):  # the last one to use the folder may remove it just before the lock is taken
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError), path.open("ab") as file:
                try:
                    lock.acquire(timeout=0)
                except Timeout as error:
                    raise RunError(
                        f"{output}: another process is writing it: {path} is locked; wait for it, or choose another "
                        "output"
                    ) from error
                # Open, the file keeps its number to itself: the same before and after is the one that was locked.
                identity = os.fstat(file.fileno())
                if _is(path, identity):
                    return identity
                lock.release(force=True)
    raise RunError(f"{path}: cannot be locked: other processes keep removing it; give the same command again")


def _is(path: Path, identity: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), identity)
    except FileNotFoundError:
        return False

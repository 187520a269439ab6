"""Threads that read ahead of the computation and write behind it, so that it waits for neither."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Iterates over something in a thread of its own, a few items ahead; its exceptions arrive in their place.

    Nothing is read before the first item is asked for; it can be gone through once.
    """

    def __init__(self, items: Iterable[Item], ahead: int) -> None:
        self._queue: queue.Queue[tuple[str, object]] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(iter(items),), name="reader", daemon=True)

    def __iter__(self) -> Iterator[Item]:
        self._thread.start()
        while True:
            kind, value = self._queue.get()
            if kind == "end":
                return
            if kind == "error":
                raise value  # type: ignore[misc]
            yield value  # type: ignore[misc]

    def close(self) -> None:
        """Stop reading, also when not everything was taken."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _read(self, items: Iterator[Item]) -> None:
        try:
            for item in items:
                if not self._put(("item", item)):
                    return
        except BaseException as error:  # handed to the thread that iterates, which raises it
            self._put(("error", error))
        else:
            self._put(("end", None))

    def _put(self, entry: tuple[str, object]) -> bool:
        """Put an entry as soon as there is room. Returns False when iteration was given up."""
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


class WriteBehind(Generic[Item]):
    """Runs a function in a thread of its own, in order; its exception comes back at the next call or at the end."""

    def __init__(self, write: Callable[[Item], None], behind: int) -> None:
        self._write = write
        self._queue: queue.Queue[Item | None] = queue.Queue(behind)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer")

    def __enter__(self) -> WriteBehind[Item]:
        self._thread.start()
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        # Also after an exception: what was computed is still written, so that nothing is computed twice.
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and value is None:
            raise self._error

    def put(self, item: Item) -> None:
        """Hand over an item; waits while too many are waiting."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(item)
                except BaseException as error:  # handed to the thread that computes, which raises it
                    self._error = error

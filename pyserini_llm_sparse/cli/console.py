"""The console: notes and progress on standard error, results on standard output.

Progress is a bar at a terminal. In a log it is a line from time to time, the first after `FIRST_LINE` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import typer

PROGRAM = "pyserini-llm-sparse"

FIRST_LINE = 10.0  # seconds until the first line of progress in a log; each later one takes twice as long, up to
LAST_PAUSE = 120.0

Progress = Callable[[int, bool], None]

_beside_java: list[TextIO] = []  # standard error, while what Java prints there is kept off it


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines that can be copied, ours without the program's name."""
    shown = [line if not line or line.startswith(("python", "java", " ")) else f"{PROGRAM} {line}" for line in lines]
    # \\b keeps the help from being wrapped.
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in shown)


def say(text: str) -> None:
    """Print a note for the person at the terminal."""
    typer.echo(f"{PROGRAM}: {text}", file=_standard_error())


def print_json(value: Any) -> None:
    """Print a result for a script."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 document``, ``5,183 documents``, ``2 queries``."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {plural}"


def duration(seconds: float) -> str:
    """Return a duration as ``7.5 s``, ``2:05`` or ``1:02:05``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(number: int) -> str:
    """Return a number of bytes as ``512 bytes``, ``12.3 kB``, ``4.0 GB``."""
    if number < 1000:
        return count(number, "byte")
    value = float(number)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:,.1f} TB"


@contextlib.contextmanager
def progress_bar(total: Callable[[], int | None], unit: str) -> Iterator[Progress]:
    """Show progress with units per second and the time left: as a bar, or as lines if standard error is no terminal.

    Args:
        total: Counts what there is to do; only called when something is shown. None if it is not known.
        unit: What is counted, in the plural.

    Yields:
        A function to call with a number of units and whether they were done now; those done before do not count into
        the speed.
    """
    stream = _standard_error()
    if not stream.isatty():
        lines = _Lines(total, unit)
        with _ticking(lines.tell):
            yield lines.update
        return
    from tqdm import tqdm

    with tqdm(total=total(), unit=f" {unit}", unit_scale=False, dynamic_ncols=True, smoothing=0.1, file=stream) as bar:

        def update(number: int, now: bool) -> None:
            if now:
                bar.update(number)
            else:
                bar.initial += number
                bar.n += number
                bar.last_print_n += number
                bar.refresh()

        yield update


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Keep a line that is written over again and again, or if standard error is no terminal, one from time to time.

    Yields:
        A function that shows a text on the line, or removes it if the text is empty.
    """
    stream = _standard_error()
    if not stream.isatty():
        due = _Due()

        def tell(text: str) -> None:
            if not text:
                due.restart()
            elif due():
                say(f"  {text}")

        yield tell
        return
    erase = "\r\x1b[K"

    def show(text: str) -> None:
        typer.echo(f"{erase}  {text}" if text else erase, file=stream, nl=False)

    try:
        yield show
    finally:
        show("")


@contextlib.contextmanager
def still_at_work(what: str) -> Iterator[None]:
    """Say from time to time that something goes on which tells nothing about itself.

    Args:
        what: What goes on, such as ``index: indexing``.
    """
    started = time.monotonic()
    with _ticking(lambda: f"{what}: {duration(time.monotonic() - started)} so far"):
        yield


class _Due:
    """Tells when the next line is due: seldom, and ever more seldom, so that the log of a day stays short."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._pause = FIRST_LINE
        self._next = time.monotonic() + FIRST_LINE

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._pause = min(2 * self._pause, LAST_PAUSE)
        self._next = now + self._pause
        return True


@contextlib.contextmanager
def _ticking(tell: Callable[[], str]) -> Iterator[None]:
    """Say what a function tells, each time that a line is due; in a thread, for a batch or a download may take long."""
    ended, due = threading.Event(), _Due()

    def run() -> None:
        while not ended.wait(min(1.0, FIRST_LINE / 10)):
            if due():
                text = tell()
                if not ended.is_set():
                    say(text)

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)  # it may be counting a large corpus, which nobody needs any more


class _Lines:
    """Progress as lines: how much of how much, how fast, and how long the rest will take."""

    def __init__(self, total: Callable[[], int | None], unit: str) -> None:
        self._count, self._unit = total, unit
        self._total: int | None = None
        self._counted = False
        self._done = self._timed = 0
        self._first: float | None = None  # when the first units were done, the loading of a model left out

    def update(self, number: int, now: bool) -> None:
        """Take a number of units that are done, now or before."""
        self._done += number
        if now and self._first is None:
            self._first = time.monotonic()
        elif now:
            self._timed += number

    def tell(self) -> str:
        """Return the line."""
        if self._done and not self._counted:
            self._counted = True
            try:
                self._total = self._count()
            except Exception:  # whatever is wrong with what is counted, the work itself will say it
                self._total = None
        passed = 0.0 if self._first is None else time.monotonic() - self._first
        return _progress_line(self._done, self._total, self._unit, self._timed / passed if passed else 0.0)


def _progress_line(done: int, total: int | None, unit: str, speed: float) -> str:
    if not done:
        return f"no {unit} yet"  # a model is loaded, say, or an index made
    of_all = f" of {total:,}" if total else ""
    how_fast = f", {speed:,.1f} a second" if speed else ""
    left = f", {duration((total - done) / speed)} left" if speed and total and total > done else ""
    return f"{done:,}{of_all} {unit}{how_fast}{left}"


def _standard_error() -> TextIO:
    return _beside_java[-1] if _beside_java else sys.stderr


@contextlib.contextmanager
def without_java_warnings() -> Iterator[None]:
    """Keep what the Java runtime prints about itself off standard error; its exceptions come through Python.

    Notes and progress go on. PYSERINI_VERBOSE_JVM, which makes Pyserini's own commands tell more, lets all through.
    """
    if os.environ.get("PYSERINI_VERBOSE_JVM"):
        yield
        return
    with contextlib.ExitStack() as undo:
        sys.stderr.flush()
        saved = os.dup(2)
        undo.callback(os.close, saved)
        if not _beside_java and _is_own(sys.stderr):
            _beside_java.append(
                undo.enter_context(open(saved, "w", 1, "utf-8", "backslashreplace", closefd=False))  # by lines
            )
            undo.callback(_beside_java.pop)
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # a device, not a path
            os.dup2(nowhere.fileno(), 2)
        undo.callback(os.dup2, saved, 2)
        undo.callback(sys.stderr.flush)
        yield


def _is_own(stream: TextIO) -> bool:
    """Tell whether a stream is the process's standard error, where Java prints, too, and not one in its place."""
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False

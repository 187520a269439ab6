"""The console: notes and progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer

PROGRAM = "pyserini-llm-sparse"

Progress = Callable[[int, bool], None]


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines that can be copied, ours without the program's name."""
    shown = [line if not line or line.startswith(("python", "java", " ")) else f"{PROGRAM} {line}" for line in lines]
    # \\b keeps the help from being wrapped.
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in shown)


def say(text: str) -> None:
    """Print a note for the person at the terminal."""
    typer.echo(f"{PROGRAM}: {text}", err=True)


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
def progress_bar(total: Callable[[], int | None], unit: str) -> Iterator[Progress | None]:
    """Show progress with units per second and the time left, if standard error is a terminal.

    Args:
        total: Counts what there is to do; only called if a bar is shown. None if it is not known.
        unit: What is counted.

    Yields:
        A function to call with a number of units and whether they were done now; those done before do not count into
        the speed. None if no bar is shown.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total(), unit=f" {unit}", unit_scale=False, dynamic_ncols=True, smoothing=0.1) as bar:

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
def status_line() -> Iterator[Callable[[str], None] | None]:
    """Keep a line that is written over again and again, if standard error is a terminal.

    Yields:
        A function that shows a text on the line, or removes it if the text is empty. None if it is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    erase = "\r\x1b[K"

    def show(text: str) -> None:
        typer.echo(f"{erase}  {text}" if text else erase, err=True, nl=False)

    try:
        yield show
    finally:
        show("")


@contextlib.contextmanager
def without_java_warnings() -> Iterator[None]:
    """Keep what the Java runtime prints about itself off standard error; its exceptions come through Python.

    PYSERINI_VERBOSE_JVM, which makes Pyserini's own commands tell more, lets it through here.
    """
    if os.environ.get("PYSERINI_VERBOSE_JVM"):
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # a device, not a path
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)

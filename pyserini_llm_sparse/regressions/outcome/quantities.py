"""Costs and how people read them: their names, units, and which direction is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A cost of a system.

    Attributes:
        field: Its name in `costs.Costs`.
        title: Heading of its column.
        axis: Title of its axis.
        shown: Writes a value with its unit.
        more_is_better: Whether a larger value is better.
    """

    field: str
    title: str
    axis: str
    shown: Callable[[float], str]
    more_is_better: bool = False


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all does not exceed.

    >>> percentile([3, 1, 2, 4], 0.5), percentile([3, 1, 2, 4], 0.99)
    (2, 4)
    """
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def bytes_shown(size: float) -> str:
    """Write a number of bytes in decimal units.

    >>> bytes_shown(1_234_567), bytes_shown(999_999), bytes_shown(12)
    ('1.2 MB', '1 MB', '12 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if float(f"{size:.2g}" if size < 100 else f"{size:.0f}") < 1000:
            return f"{_digits(size)} {unit}"
        size /= 1000
    return f"{_digits(size)} TB"


def milliseconds_shown(value: float) -> str:
    """Write milliseconds.

    >>> milliseconds_shown(4.56), milliseconds_shown(12345)
    ('4.6 ms', '12 s')
    """
    return f"{_digits(value)} ms" if value < 1000 else f"{_digits(value / 1000)} s"


def seconds_shown(value: float) -> str:
    """Write seconds, from some minutes on as minutes or hours.

    >>> seconds_shown(4.56), seconds_shown(600), seconds_shown(9000)
    ('4.6 s', '10 min', '2.5 h')
    """
    if value < 300:
        return f"{_digits(value)} s"
    return f"{_digits(value / 60)} min" if value < 2 * 3600 else f"{_digits(value / 3600)} h"


def rate_shown(value: float) -> str:
    """Write a number of documents each second.

    >>> rate_shown(4.56), rate_shown(1234.5)
    ('4.6', '1,234')
    """
    return _digits(value)


def count_shown(value: float) -> str:
    """Write a large number shortly.

    >>> count_shown(1_234_567), count_shown(42)
    ('1.2 M', '42')
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{_digits(value / min(size, 1e3 if unit == ' k' else size))}{unit}"
    return f"{value:,.0f}"


def _digits(value: float) -> str:
    """Write a number with two digits that count, or all those before the point."""
    if abs(value) >= 10:
        return f"{value:,.0f}"
    shown = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
    return shown.removesuffix(".0")


QUANTITIES = (
    Quantity("documents_per_second", "documents/s", "documents encoded each second", rate_shown, more_is_better=True),
    Quantity("index_bytes", "index", "size of the index", bytes_shown),
    Quantity("postings", "postings", "postings", count_shown),
    Quantity("latency_p50_ms", "query p50", "median latency of a query", milliseconds_shown),
    Quantity("latency_p99_ms", "query p99", "99th percentile of the latency", milliseconds_shown),
    Quantity("model_bytes", "model", "size of the model", bytes_shown),
    Quantity("peak_bytes", "peak memory", "peak memory", bytes_shown),
    Quantity("seconds", "time", "seconds of all steps", seconds_shown),
)
PLOTTED = ("index_bytes", "documents_per_second", "latency_p50_ms")

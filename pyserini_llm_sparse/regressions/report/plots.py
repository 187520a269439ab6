"""Plots of effectiveness against cost: where everything is, in pixels; a template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from pyserini_llm_sparse.regressions.outcome.quantities import Quantity
from pyserini_llm_sparse.regressions.report.page_data import SystemData

WIDTH, HEIGHT = 440, 330
LEFT, RIGHT, TOP, BOTTOM = 44, 4, 10, 46
GUTTER = 16  # between the frame and the names
KEY = 16  # for a mark before each name: two systems of one score share a line
FONT, LINE = 12.0, 15.0  # size of a name's letters, and of its line
LETTERS = 24  # of a name; longer ones are cut
MARK = 6.0  # half of a mark's width
CAP = 3.0  # half of a whisker's end
APART = 10.0  # between marks of about equal cost


@dataclass(frozen=True)
class Frame:
    """The area that the axes enclose, in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Mark:
    """A system in a plot.

    Attributes:
        system: Its name.
        kind: Its kind, which has a shape.
        x: Of its cost.
        y: Of its mean.
        low: y of the lower end of its confidence interval.
        high: y of the upper end.
        title: A text for who points at it.
        name_y: y of its name.
    """

    system: str
    kind: str
    x: float
    y: float
    low: float
    high: float
    title: str
    name_y: float


@dataclass(frozen=True)
class Plot:
    """A plot of a measure against a cost.

    Attributes:
        measure: Of the y axis.
        quantity: Of the x axis, which is logarithmic.
        title: What it shows, in words.
        height: Of the whole.
        frame: What the axes enclose.
        x_ticks: Places and texts.
        y_ticks: Places and texts.
        marks: Of the systems.
        names_at: x of the column of names.
        frontier: Path of the line through the systems to which none is both cheaper and better.
    """

    measure: str
    quantity: Quantity
    title: str
    height: float
    frame: Frame
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[Mark]
    names_at: float
    frontier: str
    width: int = WIDTH
    key: int = KEY
    cap: float = CAP


def cost_plot(systems: Sequence[SystemData], measure: str, quantity: Quantity) -> Plot | None:
    """Return a plot of a measure against a cost; None if no system has both.

    Names stand in a column beside the frame, in the order of their marks' heights. A line to a name runs level to the
    frame's side, and bends only beyond it: no two cross.

    Args:
        systems: All systems of a collection; those without the cost are left out.
        measure: Of the y axis.
        quantity: Of the x axis, which is logarithmic.
    """
    known = [system for system in systems if system["costs"].get(quantity.field)]
    if not known:
        return None
    height = max(HEIGHT, TOP + BOTTOM + LINE * len(known))
    column = KEY + max(text_width(shortened(system["name"])) for system in known)
    frame = Frame(LEFT, TOP, WIDTH - RIGHT - column - GUTTER, height - BOTTOM)
    scores = [system["scores"][measure] for system in known]
    low, high, ticks = _linear([score["low"] for score in scores] + [score["high"] for score in scores])
    costs = [float(system["costs"][quantity.field] or 0) for system in known]
    least, most, cost_ticks = _logarithmic(costs)

    def place_x(value: float) -> float:
        return frame.left + (frame.right - frame.left) * (log10(value) - least) / (most - least)

    def place_y(value: float) -> float:
        return frame.bottom - (frame.bottom - frame.top) * (value - low) / (high - low)

    apart = min(APART, (frame.right - frame.left) / (2 * len(known)))
    places = moved_apart([place_x(cost) for cost in costs], apart, frame.left + MARK, frame.right - MARK)
    means = [place_y(score["mean"]) for score in scores]
    marks = [
        Mark(
            system["name"], system["kind"], x, y, place_y(score["low"]), place_y(score["high"]),
            f"{system['name']}: {measure} {score['mean']:.4f} [{score['low']:.3f}, {score['high']:.3f}], "
            f"{quantity.axis} {quantity.shown(cost)}", name_y,
        )
        for system, score, cost, x, y, name_y in zip(
            known, scores, costs, places, means,
            moved_apart(means, LINE, frame.top + LINE / 2, frame.bottom - LINE / 2), strict=True,
        )
    ]  # fmt: skip
    return Plot(
        measure, quantity, f"{measure} against {quantity.axis} of {len(known)} systems", height, frame,
        _with_room([(place_x(value), quantity.shown(value)) for value in cost_ticks]),
        [(place_y(value), f"{value:g}") for value in ticks], marks, frame.right + GUTTER,
        _frontier(marks, quantity, frame),
    )  # fmt: skip


def _with_room(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return ticks of an x axis without those whose text would touch another one or leave the picture."""
    kept: list[tuple[float, str]] = []
    end = 0.0
    for x, text in ticks:
        half = text_width(text) / 2
        if x - half >= end and x + half <= WIDTH - RIGHT:
            kept.append((x, text))
            end = x + half + FONT / 2
    return kept


def _frontier(marks: Sequence[Mark], quantity: Quantity, frame: Frame) -> str:
    sign = -1 if quantity.more_is_better else 1
    best: list[Mark] = []
    for mark in sorted(marks, key=lambda one: (sign * one.x, one.y)):
        if not best or mark.y < best[-1].y:
            best.append(mark)
    path = f"M{best[0].x:.1f} {frame.bottom:g}V{best[0].y:.1f}"
    path += "".join(f"H{mark.x:.1f}V{mark.y:.1f}" for mark in best[1:])
    return f"{path}H{frame.left if sign < 0 else frame.right:.1f}"


def shortened(name: str) -> str:
    """Return a name that is short enough for its column.

    >>> shortened("bm25"), shortened("a" * 40)
    ('bm25', 'aaaaaaaaaaaaaaaaaaaaaaa…')
    """
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def text_width(text: str) -> float:
    """Return about how wide a text is at most, in pixels: few fonts for screens have wider letters than DejaVu Sans."""
    return FONT * sum(0.98 if letter in "mwMW%…" else 0.75 if letter.isupper() else 0.64 for letter in text)


def moved_apart(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Return places that are some pixels apart, in the same order and as near as can be to where they were.

    Neighbours that are too close become one group, which stands around the mean of its places.

    Args:
        places: On a line.
        apart: How far they must be from each other.
        low: Where the first may be.
        high: Where the last may be.

    >>> moved_apart([5, 5, 20, 8], 4, 0, 30)
    [2.0, 6.0, 20.0, 10.0]
    """
    groups: list[tuple[list[int], float]] = []  # numbers of places in order, and the group's middle

    def half(group: Sequence[int]) -> float:
        return apart * (len(group) - 1) / 2

    for number in sorted(range(len(places)), key=places.__getitem__):
        group, middle = [number], float(places[number])
        while True:
            middle = min(max(middle, low + half(group)), high - half(group))
            if not groups or middle - half(group) >= groups[-1][1] + half(groups[-1][0]) + apart:
                break
            group = groups.pop()[0] + group
            middle = sum(places[one] for one in group) / len(group)
        groups.append((group, middle))
    moved = [0.0] * len(places)
    for group, middle in groups:
        for rank, number in enumerate(group):
            moved[number] = middle - half(group) + apart * rank
    return moved


def _linear(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the ends of an axis and its ticks."""
    low, high = min(values), max(values)
    span = (high - low) or 0.1
    size = 10.0 ** floor(log10(span / 4))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if span / (size * factor) <= 5)
    low, high = low - 0.04 * span, high + 0.04 * span
    return low, high, [round(step * n, 6) for n in range(ceil(low / step), floor(high / step) + 1)]


def _logarithmic(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the common logarithms of an axis's ends, and its ticks: tens, or 1, 2 and 5 where those are few."""
    low, high = log10(min(values)), log10(max(values))
    room = max(0.08 * (high - low), 0.12)
    low, high = low - room, high + room
    tens = range(floor(low), ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [factor * 10.0**ten for ten in tens for factor in factors if low <= log10(factor) + ten <= high]
        if len(ticks) >= 3:
            break
    return low, high, ticks

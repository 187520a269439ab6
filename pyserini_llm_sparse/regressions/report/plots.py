"""Plots of effectiveness against cost as SVG: a mark with its confidence interval for each system, named beside it.

Kinds of systems differ by shape, so that the plots are read without colour; colours are the style sheet's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
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
SHAPES = {
    "bm25": "M0-5.2A5.2 5.2 0 1 1 0 5.2A5.2 5.2 0 1 1 0-5.2Z",
    "csplade": "M0-6.6L6.6 0L0 6.6L-6.6 0Z",
    "splade": "M-4.8-4.8H4.8V4.8H-4.8Z",
    "dense": "M0-6.2L6 4.6H-6Z",
    "fusion": "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "run": "M0 6.2L6-4.6H-6Z",
}


@dataclass(frozen=True)
class Frame:
    """What the axes enclose, in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class _Mark:
    """A system in a plot, in pixels."""

    system: SystemData
    x: float
    y: float
    low: float
    high: float
    title: str


def mark_shape(kind: str, x: float, y: float, title: str = "", attributes: str = "", css: str = "mark") -> str:
    """Return a mark: the shape of a kind of systems, with a text for who points at it."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<path class="{css} {escape(kind)}" d="{SHAPES[kind]}" transform="translate({x:.1f} {y:.1f})"{attributes}>'
        f"{inside}</path>"
    )


def cost_plot(systems: Sequence[SystemData], measure: str, quantity: Quantity) -> str:
    """Return a plot of a measure against a cost; empty if no system has both.

    Args:
        systems: All systems of a collection; those without the cost are left out.
        measure: Of the y axis.
        quantity: Of the x axis, which is logarithmic.
    """
    known = [system for system in systems if system["costs"].get(quantity.field)]
    if not known:
        return ""
    height = max(HEIGHT, TOP + BOTTOM + LINE * len(known))
    column = max(text_width(shortened(system["name"])) for system in known)
    frame = Frame(LEFT, TOP, WIDTH - RIGHT - column - KEY - GUTTER, height - BOTTOM)
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
    marks = [
        _Mark(
            system, x, place_y(score["mean"]), place_y(score["low"]), place_y(score["high"]),
            f"{system['name']}: {measure} {score['mean']:.4f} [{score['low']:.3f}, {score['high']:.3f}], "
            f"{quantity.axis} {quantity.shown(cost)}",
        )
        for system, score, cost, x in zip(known, scores, costs, places, strict=True)
    ]  # fmt: skip
    title = f"{measure} against {quantity.axis} of {len(known)} systems"
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}" '
        f'data-measure="{escape(measure)}" data-cost="{quantity.field}">',
        *_axes(
            frame, _with_room([(place_x(value), quantity.shown(value)) for value in cost_ticks]),
            [(place_y(value), f"{value:g}") for value in ticks],
            f"{quantity.axis} ({'more' if quantity.more_is_better else 'less'} is better)",
        ),
        *_frontier(marks, quantity, frame),
        *_names(marks, frame),
        *(part for mark in marks for part in _whisker(mark)),
        *(mark_shape(
            mark.system["kind"], mark.x, mark.y, mark.title, f' data-system="{escape(mark.system["name"])}"'
        ) for mark in marks),
        "</svg>",
    ]  # fmt: skip
    return "".join(parts)


def interval_strip(system: SystemData, measure: str, bounds: tuple[float, float], baseline: float | None) -> str:
    """Return a mean and its interval as a small picture, with the baseline's mean as a line.

    Args:
        system: The system.
        measure: The measure.
        bounds: The values at the picture's left and right.
        baseline: The baseline's mean, if it has one.
    """
    width, height, middle = 92, 16, 8
    low, high = bounds

    def place(value: float) -> float:
        return 8 + (width - 16) * (value - low) / ((high - low) or 1)

    score = system["scores"][measure]
    left, right = place(score["low"]), place(score["high"])
    line = ""
    if baseline is not None:
        line = f'<path class="reference" d="M{place(baseline):.1f} 0V{height}"/>'
    return (
        f'<svg class="strip" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">{line}'
        f'<path class="whisker" d="M{left:.1f} {middle}H{right:.1f}M{left:.1f} 5V11M{right:.1f} 5V11"/>'
        f"{mark_shape(system['kind'], place(score['mean']), middle)}</svg>"
    )


def difference_profile(differences: Sequence[float]) -> str:
    """Return the sorted differences of all queries as a small picture: losses below the line, wins above."""
    width, height, middle = 180.0, 36.0, 18.0
    step = width / len(differences)
    parts = []
    for number, value in enumerate(differences):
        if value:
            size = max(0.6, abs(value) * (middle - 1))
            top = middle - size if value > 0 else middle
            parts.append((value > 0, f"M{number * step:.2f} {top:.1f}h{step:.2f}v{size:.1f}h{-step:.2f}z"))
    losses = "".join(path for better, path in parts if not better)
    wins = "".join(path for better, path in parts if better)
    return (
        f'<svg class="profile" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'aria-hidden="true"><path class="worse" d="{losses}"/><path class="better" d="{wins}"/>'
        f'<path class="axis" d="M0 {middle:g}H{width:g}"/></svg>'
    )


def _axes(
    frame: Frame, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], title: str
) -> Iterator[str]:
    for y, text in y_ticks:
        yield f'<path class="grid" d="M{frame.left:g} {y:.1f}H{frame.right:g}"/>'
        yield f'<text class="tick" x="{frame.left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    yield f'<path class="axis" d="M{frame.left:g} {frame.bottom:g}H{frame.right:g}"/>'
    for x, text in x_ticks:
        yield f'<path class="axis" d="M{x:.1f} {frame.bottom:g}v4"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 17:g}" text-anchor="middle">{escape(text)}</text>'
    yield f'<text class="title" x="{frame.left:g}" y="{frame.bottom + 37:g}">{escape(title)}</text>'


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


def _frontier(marks: Sequence[_Mark], quantity: Quantity, frame: Frame) -> Iterator[str]:
    """Yield the line through the systems to which none is both cheaper and better."""
    sign = -1 if quantity.more_is_better else 1
    best: list[_Mark] = []
    for mark in sorted(marks, key=lambda one: (sign * one.x, one.y)):
        if not best or mark.y < best[-1].y:
            best.append(mark)
    path = f"M{best[0].x:.1f} {frame.bottom:g}V{best[0].y:.1f}"
    path += "".join(f"H{mark.x:.1f}V{mark.y:.1f}" for mark in best[1:])
    yield f'<path class="frontier" d="{path}H{frame.left if sign < 0 else frame.right:g}"/>'


def _whisker(mark: _Mark) -> Iterator[str]:
    ends = "".join(f"M{mark.x - CAP:.1f} {y:.1f}h{2 * CAP:g}" for y in (mark.low, mark.high))
    yield (
        f'<path class="whisker {escape(mark.system["kind"])}" d="M{mark.x:.1f} {mark.low:.1f}V{mark.high:.1f}{ends}"/>'
    )


def _names(marks: Sequence[_Mark], frame: Frame) -> Iterator[str]:
    """Yield the systems' names in a column beside the frame, in the order of their marks' heights, and lines to these.

    A line runs level to the frame's side, and bends only beyond it: no two cross.
    """
    x, inside = frame.right + GUTTER, (frame.top + LINE / 2, frame.bottom - LINE / 2)
    for mark, y in zip(marks, moved_apart([mark.y for mark in marks], LINE, *inside), strict=True):
        name = mark.system["name"]
        yield f'<path class="leader" d="M{mark.x:.1f} {mark.y:.1f}H{frame.right:.1f}L{x:.1f} {y:.1f}"/>'
        yield mark_shape(mark.system["kind"], x + KEY / 2, y, css="key")
        yield (
            f'<text class="label" x="{x + KEY:.1f}" y="{y + 4:.1f}" data-system="{escape(name)}">'
            f"{escape(shortened(name))}</text>"
        )


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

    >>> moved_apart([5, 5, 20, 9], 4, 0, 30)
    [2.33..., 6.33..., 20.0, 10.33...]
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

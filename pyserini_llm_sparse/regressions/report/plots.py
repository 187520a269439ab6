"""Plots of effectiveness against cost as SVG: a mark with its confidence interval for each system, labelled directly.

Kinds of systems differ by shape, so that the plots are read without colour; colours are the style sheet's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from pyserini_llm_sparse.regressions.outcome.quantities import Quantity
from pyserini_llm_sparse.regressions.report.labels import Box, Point, place_labels, text_width
from pyserini_llm_sparse.regressions.report.page_data import SystemData

WIDTH, HEIGHT = 400, 330
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 46
ROOM_FOR = 10  # systems; more make the plot higher
HIGHER = 22  # for each of them
FONT, LINE = 11.5, 13.0  # size of a label's letters, and of its line
LETTERS = 32  # of a label; longer names are cut
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
class _Mark:
    """A system in a plot, in pixels."""

    system: SystemData
    x: float
    y: float
    low: float
    high: float
    title: str


def mark_shape(kind: str, x: float, y: float, title: str = "", attributes: str = "") -> str:
    """Return a mark: the shape of a kind of systems, with a text for who points at it."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<path class="mark {escape(kind)}" d="{SHAPES[kind]}" transform="translate({x:.1f} {y:.1f})"{attributes}>'
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
    height = HEIGHT + HIGHER * max(0, len(known) - ROOM_FOR)
    frame = Box(LEFT, TOP, WIDTH - LEFT - RIGHT, height - TOP - BOTTOM)
    scores = [system["scores"][measure] for system in known]
    low, high, ticks = _linear([score["low"] for score in scores] + [score["high"] for score in scores])
    costs = [float(system["costs"][quantity.field] or 0) for system in known]
    least, most, cost_ticks = _logarithmic(costs)

    def place_x(value: float) -> float:
        return frame.left + frame.width * (log10(value) - least) / (most - least)

    def place_y(value: float) -> float:
        return frame.bottom - frame.height * (value - low) / (high - low)

    places = _moved_apart([place_x(cost) for cost in costs], frame)
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
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        f'data-measure="{escape(measure)}" data-cost="{quantity.field}">',
        *_axes(
            frame, _with_room([(place_x(value), quantity.shown(value)) for value in cost_ticks]),
            [(place_y(value), f"{value:g}") for value in ticks],
            f"{quantity.axis} ({'more' if quantity.more_is_better else 'less'} is better)",
        ),
        *_frontier(marks, quantity, frame),
        *(part for mark in marks for part in _whisker(mark)),
        *(mark_shape(
            mark.system["kind"], mark.x, mark.y, mark.title, f' data-system="{escape(mark.system["name"])}"'
        ) for mark in marks),
        *_labels(marks, frame),
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
    frame: Box, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], title: str
) -> Iterator[str]:
    for y, text in y_ticks:
        yield f'<path class="grid" d="M{frame.left:g} {y:.1f}H{frame.right:g}"/>'
        yield f'<text class="tick" x="{frame.left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    yield f'<path class="axis" d="M{frame.left:g} {frame.bottom:g}H{frame.right:g}"/>'
    for x, text in x_ticks:
        yield f'<path class="axis" d="M{x:.1f} {frame.bottom:g}v4"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 17:g}" text-anchor="middle">{escape(text)}</text>'
    middle = (frame.left + frame.right) / 2
    yield f'<text class="title" x="{middle:g}" y="{frame.bottom + 37:g}" text-anchor="middle">{escape(title)}</text>'


def _with_room(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return ticks of an x axis without those whose text would touch another one or leave the picture."""
    kept: list[tuple[float, str]] = []
    end = 0.0
    for x, text in ticks:
        half = text_width(text, FONT) / 2
        if x - half >= end and x + half <= WIDTH:
            kept.append((x, text))
            end = x + half + FONT / 2
    return kept


def _frontier(marks: Sequence[_Mark], quantity: Quantity, frame: Box) -> Iterator[str]:
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


def _labels(marks: Sequence[_Mark], frame: Box) -> Iterator[str]:
    points = [(mark.x, mark.y) for mark in marks]
    names = [shortened(mark.system["name"]) for mark in marks]
    sizes: list[Point] = [(min(text_width(name, FONT), frame.width), LINE) for name in names]
    over = [Box(x - MARK, y - MARK, 2 * MARK, 2 * MARK) for x, y in points]
    lines = [Box(mark.x - 1, mark.high, 2, mark.low - mark.high) for mark in marks]
    for mark, name, box in zip(marks, names, place_labels(points, sizes, over, lines, frame), strict=True):
        x, y = box.nearest((mark.x, mark.y))
        if abs(x - mark.x) + abs(y - mark.y) > 2 * MARK + 2:
            yield f'<path class="leader" d="M{mark.x:.1f} {mark.y:.1f}L{x:.1f} {y:.1f}"/>'
        # Text starts at the side that faces its mark: where it is narrower than its box, it is still beside it.
        centre = box.left + box.width / 2
        anchor, at = "middle", centre
        if box.left >= mark.x:
            anchor, at = "start", box.left
        elif box.right <= mark.x:
            anchor, at = "end", box.right
        yield (
            f'<text class="label" x="{at:.1f}" y="{box.bottom - 3:.1f}" text-anchor="{anchor}" '
            f'data-system="{escape(mark.system["name"])}">{escape(name)}</text>'
        )


def shortened(name: str) -> str:
    """Return a name that is short enough for a label.

    >>> shortened("bm25"), shortened("a" * 40)
    ('bm25', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…')
    """
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _moved_apart(places: Sequence[float], frame: Box) -> list[float]:
    """Return places on the x axis that are some pixels apart, as near as can be to where they were.

    Neighbours that are too close become one group, which stands around the mean of its places.
    """
    apart = min(APART, frame.width / (4 * len(places)))
    groups: list[tuple[list[int], float]] = []  # numbers of places from left to right, and the group's middle

    def half(group: Sequence[int]) -> float:
        return apart * (len(group) - 1) / 2

    for number in sorted(range(len(places)), key=places.__getitem__):
        group, middle = [number], places[number]
        while groups and middle - half(group) < groups[-1][1] + half(groups[-1][0]) + apart:
            group = groups.pop()[0] + group
            middle = sum(places[one] for one in group) / len(group)
            middle = min(max(middle, frame.left + half(group) + MARK), frame.right - half(group) - MARK)
        groups.append((group, middle))
    moved = list(places)
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

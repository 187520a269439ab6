"""Places the labels of a plot where there is room: none covers another, and marks stay free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import cos, hypot, pi, sin
from unicodedata import east_asian_width

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle: its left upper corner and its size, in pixels; y grows downwards."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Where it ends."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Where it ends below."""
        return self.top + self.height

    def overlaps(self, other: Box) -> bool:
        """Return whether they share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Return whether the other is inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )

    def widened(self, gap: float) -> Box:
        """Return a box that is wider by a gap on each side, and higher by half of it."""
        return Box(self.left - gap, self.top - gap / 2, self.width + 2 * gap, self.height + gap)

    def nearest(self, point: Point) -> Point:
        """Return its point that is nearest to another one."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.top), self.bottom)


# Widths of letters in parts of the font's size, those of DejaVu Sans: few fonts for screens are wider.
NARROW, WIDE = frozenset("fijlrtI.,:;'|!()[]/- "), frozenset("mwMW@%+=<>…")
OF_NARROW, OF_WIDE, OF_CAPITAL, OF_OTHERS = 0.42, 0.98, 0.75, 0.64
DISTANCES = (8, 16, 28, 44, 66, 92)
DIRECTIONS = 16
GAP = 5.0  # between labels, half of it above and below
BESIDE = 9.0  # so near to another mark a label seems to be that one's
MANY = 16  # points; for more, one order has to do
UPRIGHT = 1.5  # a label above or below is as good as one so many times as far to the side
# What it costs to cover something, in pixels of distance.
OVER_LABEL, OVER_MARK, BESIDE_MARK, OVER_LINE, OVER_LEADER = 1000.0, 90.0, 14.0, 7.0, 40.0


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is at most, for a font's size, in pixels.

    >>> round(text_width("bm25+dense", 11.5)), round(text_width("csplade-int8", 11.5))
    (81, 78)
    """
    return size * sum(_letter_width(letter) for letter in text)


def _letter_width(letter: str) -> float:
    if letter in NARROW:
        return OF_NARROW
    if letter in WIDE or east_asian_width(letter) in "WF":
        return OF_WIDE
    return OF_CAPITAL if letter.isupper() else OF_OTHERS


def place_labels(
    points: Sequence[Point], sizes: Sequence[Point], marks: Sequence[Box], lines: Sequence[Box], frame: Box
) -> list[Box]:
    """Return a place for the label of each point.

    Labels are placed one after the other, each where it covers least and is nearest; of some orders, that which comes
    out best is taken.

    Args:
        points: What is labelled.
        sizes: Width and height of the labels.
        marks: Those of the points, which labels should not cover.
        lines: What they had better not cover.
        frame: Where they must be.

    Raises:
        ValueError: A label is larger than the frame.
    """
    numbers = range(len(points))
    orders = [
        sorted(numbers, key=lambda one: points[one][1]), sorted(numbers, key=lambda one: -points[one][1]),
        sorted(numbers, key=lambda one: points[one][0]), sorted(numbers, key=lambda one: -points[one][0]),
        sorted(numbers, key=lambda one: -sizes[one][0]),
    ]  # fmt: skip
    best: tuple[dict[int, Box], float] | None = None
    for order in orders if len(points) <= MANY else orders[:1]:
        placed = _placed(order, points, sizes, marks, lines, frame)
        if best is None or placed[1] < best[1]:
            best = placed
    boxes = {} if best is None else best[0]
    return [boxes[number] for number in numbers]


def _placed(
    order: Sequence[int], points: Sequence[Point], sizes: Sequence[Point], marks: Sequence[Box], lines: Sequence[Box],
    frame: Box,
) -> tuple[dict[int, Box], float]:  # fmt: skip
    """Return the places of labels that are placed in an order, and their price."""
    boxes: dict[int, Box] = {}
    total = 0.0
    for number in order:
        point, taken = points[number], list(boxes.values())
        leaders = [(points[other], box.nearest(points[other])) for other, box in boxes.items()]
        others = [mark for other, mark in enumerate(marks) if other != number]
        best: tuple[float, Box] | None = None
        near = list(_around(point, sizes[number]))
        for place, box in enumerate(chain(near, _anywhere(sizes[number], frame))):
            if place == len(near) and best is not None and best[0] < OVER_LABEL:
                break  # far away is for those that have no place nearby
            end = box.nearest(point)
            price = hypot(end[0] - point[0], UPRIGHT * (end[1] - point[1]))
            if not frame.holds(box) or (best is not None and price >= best[0]):
                continue
            price += OVER_LABEL * sum(box.widened(GAP).overlaps(other) for other in taken)
            price += OVER_MARK * sum(box.overlaps(mark) for mark in marks)
            price += BESIDE_MARK * sum(box.widened(BESIDE).overlaps(mark) for mark in others)
            price += OVER_LINE * sum(box.overlaps(line) for line in lines)
            if best is None or price < best[0]:
                price += OVER_LEADER * _crossings((point, end), box, taken, leaders)
            if best is None or price < best[0]:
                best = price, box
        if best is None:
            raise ValueError("a label is larger than the frame")
        total += best[0]
        boxes[number] = best[1]
    return boxes, total


def _crossings(
    leader: tuple[Point, Point], box: Box, boxes: Sequence[Box], leaders: Sequence[tuple[Point, Point]]
) -> int:
    """Count the labels and lines that a label's line goes through, and the lines that the label covers."""
    through = sum(_crosses(leader, other) for other in boxes) + sum(_meet(leader, other) for other in leaders)
    return through + sum(_crosses(other, box) for other in leaders)


def _around(point: Point, size: Point) -> Iterator[Box]:
    """Yield boxes around a point, the nearest first; the first ones are to its right and left."""
    (x, y), (width, height) = point, size
    for distance in DISTANCES:
        for direction in range(DIRECTIONS):
            angle = 2 * pi * direction / DIRECTIONS
            # The box's side that faces the point is at the distance.
            centre_x = x + cos(angle) * (distance + width / 2)
            centre_y = y + sin(angle) * (distance + height / 2)
            yield Box(centre_x - width / 2, centre_y - height / 2, width, height)


def _anywhere(size: Point, frame: Box) -> Iterator[Box]:
    width, height = size
    rows, columns = int(frame.height // (height + GAP)), 8
    for row in range(rows):
        for column in range(columns + 1):
            left = frame.left + (frame.width - width) * column / columns
            yield Box(left, frame.top + row * (height + GAP), width, height)


def _crosses(line: tuple[Point, Point], box: Box) -> bool:
    """Return whether a line goes through a box: whether it meets one of its sides."""
    (x1, y1), (x2, y2) = line
    if max(x1, x2) < box.left or min(x1, x2) > box.right or max(y1, y2) < box.top or min(y1, y2) > box.bottom:
        return False
    corners = [
        (box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom), (box.left, box.top),
    ]  # fmt: skip
    return any(_meet(line, side) for side in pairwise(corners))


def _meet(one: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    def side(line: tuple[Point, Point], point: Point) -> float:
        (x1, y1), (x2, y2) = line
        return (x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)

    return side(one, other[0]) * side(one, other[1]) < 0 and side(other, one[0]) * side(other, one[1]) < 0

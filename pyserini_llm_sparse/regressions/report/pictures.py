"""The small pictures of the HTML report: marks, intervals, bars and profiles, in pixels; a template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyserini_llm_sparse.regressions.report.page_data import ScoreData

BAR = 240.0  # width of a bar
# Kinds of systems differ by shape, so that plots are read without colour.
SHAPES = {
    "bm25": "M0-5.2A5.2 5.2 0 1 1 0 5.2A5.2 5.2 0 1 1 0-5.2Z",
    "csplade": "M0-6.6L6.6 0L0 6.6L-6.6 0Z",
    "splade": "M-4.8-4.8H4.8V4.8H-4.8Z",
    "dense": "M0-6.2L6 4.6H-6Z",
    "fusion": "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "run": "M0 6.2L6-4.6H-6Z",
}


@dataclass(frozen=True)
class Strip:
    """A mean, its interval, and the baseline's mean on one scale."""

    mean: float
    low: float
    high: float
    baseline: float | None
    width: int = 92
    height: int = 16
    middle: int = 8


def interval_strip(score: ScoreData, bounds: tuple[float, float], baseline: float | None) -> Strip:
    """Return the picture of a mean and its interval.

    Args:
        score: The score.
        bounds: The values at the picture's left and right.
        baseline: The baseline's mean, if it has one.
    """
    low, high = bounds

    def place(value: float) -> float:
        return 8 + (Strip.width - 16) * (value - low) / ((high - low) or 1)

    return Strip(
        place(score["mean"]), place(score["low"]), place(score["high"]), None if baseline is None else place(baseline)
    )


@dataclass(frozen=True)
class Profile:
    """The sorted differences of all queries: paths of losses, below the middle, and of wins."""

    losses: str
    wins: str
    width: float = 180.0
    height: float = 36.0
    middle: float = 18.0


def difference_profile(differences: Sequence[float]) -> Profile:
    """Return the picture of sorted differences."""
    step, middle = Profile.width / len(differences), Profile.middle
    losses = wins = ""
    for number, value in enumerate(differences):
        size = max(0.6, abs(value) * (middle - 1))
        path = f"h{step:.2f}v{size:.1f}h{-step:.2f}z"
        if value > 0:
            wins += f"M{number * step:.2f} {middle - size:.1f}{path}"
        elif value < 0:
            losses += f"M{number * step:.2f} {middle:.1f}{path}"
    return Profile(losses, wins)


class Part(NamedTuple):
    """A part of a bar."""

    kind: str
    x: float
    width: float


def outcome_bar(wins: int, ties: int, losses: int) -> list[Part]:
    """Return the parts of a bar of wins, ties and losses; of what there is none there is no part."""
    total, x, parts = (wins + ties + losses) or 1, 0.0, []
    for number, kind in ((wins, "better"), (ties, "tie"), (losses, "worse")):
        size = BAR * number / total
        if number:
            parts.append(Part(kind, x + 1, max(size - 2, 0.5)))
        x += size
    return parts

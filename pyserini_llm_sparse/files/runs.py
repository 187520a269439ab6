"""Read rankings in TREC's columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Ranked(NamedTuple):
    """A line of a run file: a document in the ranking of a query."""

    query: str
    document: str
    rank: int
    score: float


def read_run(path: Path) -> Iterator[Ranked]:
    """Yield the lines of a run file, in their order."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            query, _, document, rank, score, _ = line.split()
            yield Ranked(query, document, int(rank), float(score))

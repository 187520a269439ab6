"""The change that training made of a model: measures before and after, with what chance alone could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.work import load

RESAMPLES = 2000
CONFIDENCE = 0.95
_SEED = 7
_AT_A_TIME = 200  # resamples, so that many queries do not fill the memory

ByQuery = Mapping[str, Sequence[NDArray[np.float64]]]


@dataclass(frozen=True)
class Change:
    """The change of a measure.

    Attributes:
        measure: Its name.
        before: Of the model that training started from; of several development sets, the mean.
        after: Of the result.
        low: Where the confidence interval of the difference starts; None for fewer than two queries.
        high: Where it ends.
        queries: How many there are.
    """

    measure: str
    before: float
    after: float
    low: float | None
    high: float | None
    queries: int

    @property
    def is_loss(self) -> bool:
        """Whether the result is worse, beyond what another sample of queries would tell otherwise."""
        return self.after < self.before and (self.high is None or self.high < 0)

    def interval(self) -> str:
        """Return the difference and its interval, signed."""
        bounds = "" if self.low is None else f" [{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.after - self.before:+.4f}{bounds}"

    def shown(self) -> str:
        """Return the change as part of a line."""
        return f"{self.measure} {self.after:.4f}, {self.before:.4f} before: {self.interval()}"


def changes(before: ByQuery, after: ByQuery) -> list[Change]:
    """Compare a result with the model that training started from, query by query.

    The interval is that of a paired bootstrap (percentiles; queries of each development set resampled for themselves).

    Args:
        before: By measure, for each development set an array ``[queries]``.
        after: The same of the result.
    """
    found = []
    for measure in after:
        pairs = list(zip(before.get(measure, ()), after[measure], strict=False))
        if not pairs or any(len(old) != len(new) for old, new in pairs):
            continue
        low, high = _interval([new - old for old, new in pairs])
        means = [float(np.mean([values.mean() for values in side])) for side in zip(*pairs, strict=True)]
        found.append(Change(measure, means[0], means[1], low, high, sum(len(old) for old, _ in pairs)))
    return found


def save_start(path: Path, by_query: ByQuery) -> None:
    """Keep the measures of each query before training, for a run that is stopped and goes on."""
    with atomic_file(path) as stream:
        stream.write(orjson.dumps({name: [one.tolist() for one in values] for name, values in by_query.items()}))


def load_start(path: Path) -> ByQuery:
    """Return what `save_start` kept; nothing if it has not."""
    return load(path, _parsed) or {}


def _parsed(content: bytes) -> dict[str, list[NDArray[np.float64]]]:
    kept: dict[str, Any] = orjson.loads(content)
    return {name: [np.asarray(one, np.float64) for one in values] for name, values in kept.items()}


def _interval(differences: Sequence[NDArray[np.float64]]) -> tuple[float | None, float | None]:
    if sum(map(len, differences)) < 2:
        return None, None
    chance, means = np.random.default_rng(_SEED), np.zeros(RESAMPLES)
    for start in range(0, RESAMPLES, _AT_A_TIME):
        for one in differences:
            picked = chance.integers(0, len(one), (_AT_A_TIME, len(one)))
            means[start : start + _AT_A_TIME] += one[picked].mean(1) / len(differences)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)

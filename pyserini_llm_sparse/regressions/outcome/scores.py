"""Scores of rankings, with what chance alone could do, and whether they are as expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.files.measures import parse_measure
from pyserini_llm_sparse.files.trec import read_qrels, read_run
from pyserini_llm_sparse.regressions.recipe.fields import Expected

RESAMPLES = 2000
CONFIDENCE = 0.95
OKISH = 10  # tolerances
_SEED = 7

Verdict = Literal["OK", "OKish", "FAIL"]


@dataclass(frozen=True)
class Score:
    """A measure of a ranking.

    Attributes:
        mean: Over the judged queries; a query that was not answered counts as 0.
        low: Where the confidence interval of the mean starts.
        high: Where it ends.
        p_value: That a difference from the baseline at least as large comes by chance, corrected for the number of
            comparisons; None for the baseline.
        is_better: Whether it is above the baseline's.
        expected: What was expected, if anything.
    """

    mean: float
    low: float
    high: float
    p_value: float | None = None
    is_better: bool = False
    expected: Expected | None = None

    @property
    def verdict(self) -> Verdict | None:
        """Whether the score is as expected; None if nothing is."""
        return None if self.expected is None else judged(self.mean, self.expected)


def judged(score: float, expected: Expected) -> Verdict:
    """Compare a score with what was expected.

    >>> judged(0.6789, Expected(score=0.679))
    'OK'
    """
    off = abs(score - expected.score)
    if off <= expected.tolerance:
        return "OK"
    return "OKish" if off <= OKISH * expected.tolerance else "FAIL"


class Judgements:
    """A collection's judgements, read once for all rankings.

    Attributes:
        queries: Ids of the judged queries, in order.
    """

    def __init__(self, qrels: Path) -> None:
        """Read judgements in TREC's columns."""
        self._grades = read_qrels(qrels)
        self.queries = sorted(self._grades)

    def values(self, run: Path, measures: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return each measure of a ranking for all judged queries, in their order.

        Args:
            run: A run file in TREC's columns.
            measures: In the notation of ir-measures.
        """
        import ir_measures

        places = {query: place for place, query in enumerate(self.queries)}
        found = {name: np.zeros(len(places)) for name in measures}
        parsed = {parse_measure(name): name for name in measures}
        for metric in ir_measures.iter_calc(list(parsed), self._grades, _ranking(run)):
            if metric.query_id in places:
                found[parsed[metric.measure]][places[metric.query_id]] = metric.value
        return found


def _ranking(run: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line in read_run(run):
        found.setdefault(line.query, {})[line.document] = line.score
    return found


def score_systems(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]],
    baseline: str,
    expected: Mapping[str, Mapping[str, Expected]],
) -> dict[str, dict[str, Score]]:
    """Return the scores of all systems on a collection.

    Differences from the baseline are tested by a paired t-test, and the p-values of a measure corrected for the number
    of systems (Holm, 1979).

    Args:
        values: By system and measure, the measure of each query.
        baseline: The system that the others are compared with; without it there are no tests.
        expected: By system and measure.
    """
    scores: dict[str, dict[str, Score]] = {system: {} for system in values}
    for measure in dict.fromkeys(name for found in values.values() for name in found):
        others = [system for system in values if system != baseline and baseline in values]
        tested = dict(
            zip(others, holm([_p_value(values[system][measure], values[baseline][measure]) for system in others]),
                strict=True)
        )  # fmt: skip
        for system, found in values.items():
            low, high = interval(found[measure])
            mean = float(found[measure].mean())
            is_better = system in tested and mean > float(values[baseline][measure].mean())
            scores[system][measure] = Score(
                mean, low, high, tested.get(system), is_better, expected.get(system, {}).get(measure)
            )
    return scores


def mean_scores(
    scores: Sequence[Mapping[str, Mapping[str, Score]]], expected: Mapping[str, Mapping[str, Expected]]
) -> dict[str, dict[str, Score]]:
    """Return the means over collections of the systems that have scores on all of them.

    They have neither interval nor test: queries of one collection and another are no sample of anything.

    Args:
        scores: Of each collection, by system and measure.
        expected: Of the means, by system and measure.
    """
    found: dict[str, dict[str, Score]] = {}
    for system in scores[0]:
        if all(system in of_collection for of_collection in scores):
            for measure in scores[0][system]:
                mean = sum(of_collection[system][measure].mean for of_collection in scores) / len(scores)
                one = expected.get(system, {}).get(measure)
                found.setdefault(system, {})[measure] = Score(mean, mean, mean, expected=one)
    return found


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the bootstrap's confidence interval of a mean (percentiles of the means of resampled queries)."""
    chance = np.random.default_rng(_SEED)
    picked = chance.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[picked].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _p_value(values: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the p-value of a paired t-test; 1 where nothing differs."""
    from scipy.stats import ttest_rel

    return 1.0 if np.array_equal(values, others) else float(ttest_rel(values, others).pvalue)

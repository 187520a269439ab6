"""The comparison of a collection's systems: what stands out, the columns of their table, and their plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyserini_llm_sparse.regressions.outcome.quantities import PLOTTED, QUANTITIES, Quantity
from pyserini_llm_sparse.regressions.report.page_data import CollectionData, PageData, ScoreData, SystemData
from pyserini_llm_sparse.regressions.report.plots import Plot, cost_plot


class Findings(NamedTuple):
    """The findings on a collection that a reader wants to know first.

    Attributes:
        best: The system with the highest score in the first measure.
        score: That score.
        better: Systems that are better than the baseline beyond chance.
        worse: Those that are worse.
        compared: Whether any is compared with the baseline.
        verdicts: How many of the expected scores are OK, OKish and FAIL; of what there is none there is no pair.
    """

    best: SystemData
    score: ScoreData
    better: list[str]
    worse: list[str]
    compared: bool
    verdicts: list[tuple[str, int]]


def findings_of(data: PageData, collection: CollectionData) -> Findings:
    """Return what stands out on a collection."""
    measure, systems = data["measures"][0], collection["systems"]
    best = max(systems, key=lambda system: system["scores"][measure]["mean"])
    beyond = [
        (system["name"], score["is_better"])
        for system in systems
        for score in [system["scores"][measure]]
        if score["p_value"] is not None and score["p_value"] < data["significant"]
    ]
    verdicts = [one["verdict"] for system in systems for one in system["scores"].values()]
    return Findings(
        best,
        best["scores"][measure],
        [name for name, is_better in beyond if is_better],
        [name for name, is_better in beyond if not is_better],
        any(system["outcomes"] for system in systems),
        [(one, verdicts.count(one)) for one in ("OK", "OKish", "FAIL") if one in verdicts],
    )


class MeasureColumn(NamedTuple):
    """A measure of all systems: the best mean as it is shown, the ends of the scale, and the baseline's mean."""

    measure: str
    best: str
    bounds: tuple[float, float]
    baseline: float | None


class CostColumn(NamedTuple):
    """A cost of all systems, and its best value if it is not that of all."""

    quantity: Quantity
    best: float | None


class Columns(NamedTuple):
    """The columns of the table of a collection's systems."""

    measures: list[MeasureColumn]
    costs: list[CostColumn]


def columns_of(data: PageData, collection: CollectionData) -> Columns:
    """Return the columns of all measures and of the costs that are known of a system."""
    systems = collection["systems"]
    measures = []
    for measure in data["measures"]:
        scores = [system["scores"][measure] for system in systems]
        bounds = min(score["low"] for score in scores), max(score["high"] for score in scores)
        best = max(f"{score['mean']:.4f}" for score in scores)
        measures.append(MeasureColumn(measure, best, bounds, baseline_mean(systems, measure)))
    known = [one for one in QUANTITIES if any(system["costs"][one.field] is not None for system in systems)]
    return Columns(measures, [CostColumn(one, _best_cost(systems, one)) for one in known])


def baseline_mean(systems: Sequence[SystemData], measure: str) -> float | None:
    """Return the baseline's mean of a measure, if it has one."""
    return next((system["scores"][measure]["mean"] for system in systems if system["is_baseline"]), None)


def plots_of(systems: Sequence[SystemData], measure: str) -> tuple[list[tuple[Plot, list[str]]], list[str]]:
    """Return the plots of a measure, each with the systems that are not in it, and the costs that no system has."""
    plots, unknown = [], []
    for quantity in (one for name in PLOTTED for one in QUANTITIES if one.field == name):
        if (plot := cost_plot(systems, measure, quantity)) is None:
            unknown.append(quantity.axis)
        else:
            plots.append((plot, [one["name"] for one in systems if not one["costs"][quantity.field]]))
    return plots, unknown


def signed(value: float) -> str:
    """Return a difference with its sign.

    >>> signed(0.0123), signed(-0.5), signed(0.0)
    ('▲ +0.0123', '▼ −0.5000', '0.0000')
    """
    if f"{abs(value):.4f}" == "0.0000":
        return "0.0000"
    return f"▲ +{value:.4f}" if value > 0 else f"▼ −{-value:.4f}"


def _best_cost(systems: Sequence[SystemData], quantity: Quantity) -> float | None:
    values = {value for system in systems if (value := system["costs"][quantity.field])}
    choose: Callable[[set[float]], float] = max if quantity.more_is_better else min
    return choose(values) if len(values) > 1 else None

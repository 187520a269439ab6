"""The costs of a system on a collection, from the records of its steps, held against its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pyserini_llm_sparse.files.walk import files_below
from pyserini_llm_sparse.regressions.outcome.details import Measured, read_measured
from pyserini_llm_sparse.regressions.outcome.quantities import QUANTITIES, percentile
from pyserini_llm_sparse.regressions.recipe.fields import Budget
from pyserini_llm_sparse.regressions.recipe.systems import Fusion, System
from pyserini_llm_sparse.regressions.run.layout import FAISS, LUCENE, MEASURE, MEASURED, SEARCH, TRAINED, VECTORS
from pyserini_llm_sparse.regressions.run.plan import CollectionPlan
from pyserini_llm_sparse.regressions.run.steps import Step

Records = Mapping[Step, Mapping[str, Any]]
"""The records of the steps that are done."""


@dataclass(frozen=True)
class Costs:
    """The costs of a system; None where one is not known. A fusion costs what the systems cost that it fuses.

    Attributes:
        documents_per_second: Encoded, the start of the command included; None of a fusion.
        index_bytes: Size of what is searched.
        postings: Pairs of a term and a document in it.
        latency_p50_ms: Milliseconds of encoding and searching a query, median.
        latency_p99_ms: The same, of the slowest one in a hundred.
        model_bytes: Size of the weights.
        seconds: Of all steps up to the run, training excepted.
        peak_bytes: Largest memory of a step.
    """

    documents_per_second: float | None = None
    index_bytes: int | None = None
    postings: int | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    model_bytes: int | None = None
    seconds: float | None = None
    peak_bytes: int | None = None


def system_costs(systems: Mapping[str, System], plan: CollectionPlan, records: Records, system: str) -> Costs:
    """Return the costs of a system.

    Args:
        systems: The recipe's, by name.
        plan: Of the collection.
        records: Of all steps that are done, the system's among them.
        system: Its name.

    Raises:
        LlmSparseError: What was measured cannot be read.
    """
    steps = plan.systems[system]
    took = [records[step] for step in steps if step.command and step.folder.parent.name != TRAINED]
    peaks = [record["peak_bytes"] for record in took if record["peak_bytes"]]
    measured = [_measured(plan.details.get(part, ()), records) for part in _parts(systems, system)]
    latency = _latencies(measured)
    return Costs(
        documents_per_second=None if isinstance(systems[system], Fusion) else _encoded(plan, records, steps),
        index_bytes=_index_bytes(steps) or None,
        postings=_sum([one.postings for one in measured]),
        latency_p50_ms=percentile(latency, 0.5) if latency else None,
        latency_p99_ms=percentile(latency, 0.99) if latency else None,
        model_bytes=_sum([one.model_bytes for one in measured if one.model_bytes is not None]),
        seconds=round(sum(record["seconds"] for record in took), 3) if took else None,
        peak_bytes=max(peaks, default=None),
    )


class Held(NamedTuple):
    """A cost held against its budget.

    Attributes:
        verdict: OK or FAIL.
        value: What it is.
        bound: ``at most`` or ``at least``.
        limit: What it may be.
    """

    verdict: str
    value: float
    bound: str
    limit: float

    @property
    def reason(self) -> str:
        """What it is and what it may be, in words."""
        return f"{_exact(self.value)}, {self.bound} {_exact(self.limit)} was budgeted"


def held_against(costs: Costs, budget: Budget) -> dict[str, Held]:
    """Return the verdicts of what has a budget, by its field; of what is not known there is none."""
    known, limits, held = asdict(costs), budget.model_dump(exclude_none=True), {}
    for quantity in QUANTITIES:
        value, limit = known[quantity.field], limits.get(quantity.field)
        if value is None or limit is None:
            continue
        is_within = value >= limit if quantity.more_is_better else value <= limit
        bound = "at least" if quantity.more_is_better else "at most"
        held[quantity.field] = Held("OK" if is_within else "FAIL", value, bound, limit)
    return held


def _encoded(plan: CollectionPlan, records: Records, steps: Sequence[Step]) -> float | None:
    """Return how many documents were encoded in a second."""
    documents = records.get(plan.documents, {}).get("documents")
    encoding = [step for step in steps if step.folder.name == VECTORS]
    if not documents or len(encoding) != 1:
        return None
    return float(documents / records[encoding[0]]["seconds"])


def _index_bytes(steps: Sequence[Step]) -> int:
    """Return the size of what is searched."""
    searched = {before.folder for step in steps if step.folder.name == SEARCH for before in step.after}
    files = [path for folder in searched for name in (LUCENE, FAISS) for path in files_below(folder / name)]
    return sum(path.stat().st_size for path in files)


def _latencies(measured: Sequence[Measured]) -> list[float]:
    """Return milliseconds of each query, the sum of the systems' that are fused; none where one is not known."""
    parts = [one.latency_ms or {} for one in measured]
    return [sum(part[query] for part in parts) for query in parts[0] if all(query in part for part in parts)]


def _sum(values: Sequence[int | None]) -> int | None:
    """Return the sum of what was measured of the systems that are fused, or of the one; None if one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _parts(systems: Mapping[str, System], system: str) -> list[str]:
    """Return the systems that have indexes of their own and together make a system's ranking."""
    described = systems[system]
    if not isinstance(described, Fusion):
        return [system]
    return list(dict.fromkeys(part for one in described.of for part in _parts(systems, one)))


def _measured(details: Sequence[Step], records: Records) -> Measured:
    """Return what the step found that measures a system; nothing if that was not done."""
    step = next((step for step in details if step.folder.name == MEASURE and step in records), None)
    return Measured() if step is None else read_measured(step.folder / MEASURED)


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

"""The data of the HTML report: one object of plain values, which the page embeds as JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.regressions.outcome.costs import Held
from pyserini_llm_sparse.regressions.outcome.problems import contained
from pyserini_llm_sparse.regressions.outcome.quantities import bytes_shown
from pyserini_llm_sparse.regressions.outcome.results import CollectionResult, Result
from pyserini_llm_sparse.regressions.outcome.scores import CONFIDENCE, Score
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.report.markdown import COUNTS, SIGNIFICANT
from pyserini_llm_sparse.regressions.report.page_queries import (
    DIGITS,
    QUERIES,
    QueryData,
    judged_queries,
    limit_explanations,
)
from pyserini_llm_sparse.system import allowed_cores, installed_version, processor_field

PROFILE = 180  # values of a profile of differences
_PACKAGES = (
    "pyserini-llm-sparse", "pyserini", "torch", "transformers", "onnxruntime", "faiss-cpu", "ir-measures", "numpy",
    "scipy",
)  # fmt: skip


class ScoreData(TypedDict):
    """A measure of a system; see `scores.Score`."""

    mean: float
    low: float
    high: float
    p_value: float | None
    is_better: bool
    verdict: str | None
    expected: float | None
    source: str | None


class SystemData(TypedDict):
    """A system on a collection.

    `costs` are those of `costs.Costs` by their names, `budgets` the verdicts of those that have one, `outcomes` the
    numbers of queries where the system is better than the baseline, equal and worse, by measure, and `profiles` the
    sorted differences from the baseline, means of neighbours where there are many.
    """

    name: str
    kind: str
    settings: str
    is_baseline: bool
    scores: dict[str, ScoreData]
    costs: dict[str, float | None]
    budgets: dict[str, Held]
    outcomes: dict[str, tuple[int, int, int]]
    profiles: dict[str, list[float]]
    run_sha256: str


class CollectionData(TypedDict):
    """A collection: `counts` of documents and so on, `all_queries` of which `queries` may be a part."""

    name: str
    counts: dict[str, int]
    systems: list[SystemData]
    problems: dict[str, str]
    all_queries: int
    queries: list[QueryData]
    sha256: dict[str, str]


class MeanData(TypedDict):
    """The mean of the scores `of` collections, by system and measure."""

    name: str
    of: list[str]
    scores: dict[str, dict[str, ScoreData]]


class StepData(TypedDict):
    """A command that ran; `key` names the content of all that went into it."""

    title: str
    command: str
    seconds: float
    peak_bytes: int | None
    key: str


class PageData(TypedDict):
    """All that the page shows."""

    title: str
    about: str
    baseline: str
    measures: list[str]
    confidence: float
    significant: float
    collections: list[CollectionData]
    means: list[MeanData]
    steps: list[StepData]
    machine: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    failed: list[str]


def page_data(result: Result) -> PageData:
    """Return what the page shows of a result.

    Run files, topics, judgements and explanations are read from its steps' folders. What cannot be read is left out,
    and told among the collection's problems.
    """
    recipe = result.recipe
    collections = [_collection(result, found) for found in result.collections.values()]
    limit_explanations([query for collection in collections for query in collection["queries"]])
    return {
        "title": recipe.title,
        "about": recipe.about.strip(),
        "baseline": recipe.against,
        "measures": list(recipe.measures),
        "confidence": CONFIDENCE,
        "significant": SIGNIFICANT,
        "collections": collections,
        "means": [
            {
                "name": name, "of": list(recipe.means[name]),
                "scores": {system: {measure: _score(score) for measure, score in of_system.items()}
                           for system, of_system in scores.items()},
            }
            for name, scores in result.means.items()
        ],
        "steps": [
            {
                "title": step.title, "command": step.shown(), "seconds": record["seconds"],
                "peak_bytes": record["peak_bytes"], "key": record["key"],
            }
            for step in result.steps for record in [result.records[step]]
        ],
        "machine": _machine(),
        "versions": [(name, version) for name in _PACKAGES if (version := installed_version(name))],
        "failed": result.failed,
    }  # fmt: skip


def _collection(result: Result, found: CollectionResult) -> CollectionData:
    plan = found.plan
    # Documents may be laid out by another collection's step.
    record = {**result.records.get(plan.documents, {}), **result.records.get(plan.prepared, {})}
    problems, systems, queries, digests = dict(found.problems), [], [], {}
    for system in (name for name in result.recipe.systems if name in found.scores):
        with contained(problems, system):
            systems.append(_system(result, found, system))
    if systems:
        with contained(problems, "queries"):
            share = QUERIES // len(result.collections)
            queries = judged_queries(result, found, [system["name"] for system in systems], share, problems)
    if plan.prepared in result.records:
        with contained(problems, "hashes"):
            digests = {path.name: file_sha256(path) for path in (plan.topics, plan.qrels)}
    return {
        "name": plan.name,
        "counts": {name: record[name] for name in COUNTS if name in record},
        "systems": systems,
        "problems": problems,
        "all_queries": len(found.queries),
        "queries": queries,
        "sha256": digests,
    }


def _system(result: Result, found: CollectionResult, name: str) -> SystemData:
    recipe = result.recipe
    baseline, differences = found.values.get(recipe.against), {}
    if baseline is not None and name != recipe.against:
        differences = {
            measure: np.sort((found.values[name][measure] - baseline[measure]).round(DIGITS))
            for measure in recipe.measures
        }
    return {
        "name": name,
        "kind": recipe.systems[name].kind,
        "settings": _settings(recipe, name),
        "is_baseline": name == recipe.against,
        "scores": {measure: _score(score) for measure, score in found.scores[name].items()},
        "costs": asdict(found.costs[name]),
        "budgets": result.budgets[found.plan.name].get(name, {}),
        "outcomes": {measure: _outcomes(values) for measure, values in differences.items()},
        "profiles": {measure: _profile(values) for measure, values in differences.items()},
        "run_sha256": file_sha256(found.plan.run(name)),
    }


def _outcomes(differences: NDArray[np.float64]) -> tuple[int, int, int]:
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return wins, len(differences) - wins - losses, losses


def _profile(differences: NDArray[np.float64]) -> list[float]:
    parts = np.array_split(differences, min(len(differences), PROFILE))
    return [round(float(part.mean()), DIGITS) for part in parts]


def _settings(recipe: Recipe, name: str) -> str:
    """Return what the recipe sets of a system."""
    system = recipe.systems[name]
    fields = system.model_dump(include=system.model_fields_set - {"kind"}, exclude_none=True)
    shown = [f"{field} {' and '.join(value) if isinstance(value, tuple) else value}" for field, value in fields.items()]
    return ", ".join([system.kind, *shown])


def _score(score: Score) -> ScoreData:
    return {
        "mean": score.mean, "low": score.low, "high": score.high, "p_value": score.p_value,
        "is_better": score.is_better, "verdict": score.verdict,
        "expected": None if score.expected is None else score.expected.score,
        "source": None if score.expected is None else score.expected.source,
    }  # fmt: skip


def _machine() -> list[tuple[str, str]]:
    found = [
        ("system", platform.platform()),
        ("processor", _processor()),
        ("cores", str(allowed_cores() or os.cpu_count() or "not known")),
        ("Python", platform.python_version()),
    ]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.insert(3, ("memory", bytes_shown(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))))
    return found


def _processor() -> str:
    """Return the processor's name where the system tells it, and its architecture."""
    named = processor_field("model name") or platform.processor()
    return ", ".join(dict.fromkeys(one for one in (named, platform.machine()) if one))

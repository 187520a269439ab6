"""The queries of the HTML report: what each system made of them, and why.

Texts of documents are left out: a collection's licence may not allow to pass them on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pyserini_llm_sparse.files.topics import read_topics
from pyserini_llm_sparse.files.trec import read_qrels, read_run
from pyserini_llm_sparse.regressions.outcome.details import read_explanations
from pyserini_llm_sparse.regressions.outcome.problems import contained
from pyserini_llm_sparse.regressions.outcome.results import CollectionResult, Result
from pyserini_llm_sparse.regressions.run.layout import EXPLAIN, EXPLAINED

# In the whole page, so that it stays small.
QUERIES = 1500
EXPLAINED_BYTES = 2_000_000
DOCUMENTS = 5  # of a ranking
TERMS = 32  # of an expanded query
DIGITS = 4


class QueryData(TypedDict):
    """A judged query.

    `values` has a list for each system, in their order, of the measures in their order; `top` the first documents of
    each system, with their grades, None where nobody judged; `explained` explanations by the system's name.
    """

    id: str
    text: str
    relevant: int
    values: list[list[float]]
    top: list[list[tuple[str, int | None]]]
    explained: dict[str, dict[str, Any]]


def judged_queries(
    result: Result, found: CollectionResult, systems: Sequence[str], most: int, problems: MutableMapping[str, str]
) -> list[QueryData]:
    """Return the judged queries of a collection in which systems differ most in one measure.

    Args:
        result: Of the recipe.
        found: Of the collection.
        systems: Those to compare.
        most: How many queries at most.
        problems: Of the collection; told which explanations cannot be read.

    Raises:
        LlmSparseError: Topics, judgements or a ranking cannot be read.
    """
    recipe, plan = result.recipe, found.plan
    first = [found.values[system][recipe.measures[0]] for system in systems]
    spread = [max(values) - min(values) for values in zip(*first, strict=True)]
    kept = sorted(sorted(range(len(spread)), key=spread.__getitem__, reverse=True)[:most])
    texts = {topic.id: topic.text for topic in read_topics(plan.topics)}
    judged = read_qrels(plan.qrels)
    ids = {found.queries[place] for place in kept}
    explained: dict[str, dict[str, dict[str, Any]]] = {system: {} for system in systems}
    for system in systems:
        with contained(problems, f"{system} ({EXPLAIN})"):
            explained[system] = _explanations(result, found, system, ids)
    tops = [_first_documents(plan.run(system), ids, explained[system]) for system in systems]
    for query, explanation in ((query, one) for known in explained.values() for query, one in known.items()):
        for document in explanation["documents"]:
            document["grade"] = judged.get(query, {}).get(document["id"])
    return [
        {
            "id": query,
            "text": texts.get(query, ""),
            "relevant": sum(grade > 0 for grade in judged.get(query, {}).values()),
            "values": [
                [round(float(found.values[system][measure][place]), DIGITS) for measure in recipe.measures]
                for system in systems
            ],
            "top": [
                [(document, judged.get(query, {}).get(document)) for document in top.get(query, [])] for top in tops
            ],
            "explained": {system: known[query] for system, known in explained.items() if query in known},
        }
        for place in kept
        for query in [found.queries[place]]
    ]


def _first_documents(run: Path, queries: set[str], explained: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return the first documents of each query in a run file in TREC's columns.

    Explained documents get the score that they have there, which Lucene computed: `run_score`.
    """
    first: dict[str, list[tuple[int, str]]] = {}
    wanted = {(query, one["id"]): one for query, explanation in explained.items() for one in explanation["documents"]}
    for line in read_run(run):
        if line.query in queries and line.rank <= DOCUMENTS:
            first.setdefault(line.query, []).append((line.rank, line.document))
        if (one := wanted.get((line.query, line.document))) is not None:
            one["run_score"] = line.score
    return {query: [document for _, document in sorted(ranked)[:DOCUMENTS]] for query, ranked in first.items()}


def _explanations(result: Result, found: CollectionResult, system: str, queries: set[str]) -> dict[str, dict[str, Any]]:
    """Return the explanations of a system by query; none if it has none."""
    steps = found.plan.details[system]
    step = next((step for step in steps if step.folder.name == EXPLAIN and step in result.records), None)
    if step is None:
        return {}
    explained = read_explanations(step.folder / EXPLAINED, queries)
    for explanation in explained.values():
        explanation["terms"] = explanation["terms"][:TERMS]
    return explained


def limit_explanations(queries: Sequence[QueryData]) -> None:
    """Leave out explanations beyond `EXPLAINED_BYTES`, those of the queries first in which systems differ least."""
    left = EXPLAINED_BYTES
    for query in sorted(queries, key=_spread, reverse=True):
        if query["explained"]:
            left -= len(json.dumps(query["explained"], ensure_ascii=False, separators=(",", ":")).encode())
            if left < 0:
                query["explained"] = {}


def _spread(query: QueryData) -> float:
    values = [of_system[0] for of_system in query["values"]]
    return max(values) - min(values)

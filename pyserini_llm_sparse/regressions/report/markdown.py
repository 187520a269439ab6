"""The report of a recipe in Markdown: effectiveness beside cost, and the commands that made it."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyserini_llm_sparse.regressions.outcome.costs import Held
from pyserini_llm_sparse.regressions.outcome.quantities import QUANTITIES, Quantity
from pyserini_llm_sparse.regressions.outcome.results import CollectionResult, Result
from pyserini_llm_sparse.regressions.outcome.scores import CONFIDENCE, Score
from pyserini_llm_sparse.system import allowed_cores, installed_version

SIGNIFICANT = 0.05
COUNTS = ("documents", "without text", "queries", "judgements")
_MARKUP = re.compile(r"[\\`|<>*\[\]&~$]|(?<!\w)_|_(?!\w)")
_PACKAGES = ("pyserini-llm-sparse", "pyserini", "torch", "transformers", "onnxruntime", "ir-measures")


def report(result: Result) -> str:
    """Return the report."""
    return "\n".join(_lines(result)) + "\n"


def as_json(result: Result) -> dict[str, Any]:
    """Return what a script needs of a result."""
    collections = {
        name: {
            "scores": {
                system: {measure: _score_json(score) for measure, score in scores.items()}
                for system, scores in found.scores.items()
            },
            "costs": {system: asdict(costs) for system, costs in found.costs.items()},
            "budgets": {
                system: {field: one._asdict() for field, one in held.items()}
                for system, held in result.budgets[name].items()
            },
            "problems": found.problems,
        }
        for name, found in result.collections.items()
    }
    return {
        "title": result.recipe.title,
        "collections": collections,
        "means": {
            name: {
                system: {measure: score.mean for measure, score in scores.items()}
                for system, scores in by_system.items()
            }
            for name, by_system in result.means.items()
        },
        "steps": list(result.records.values()),
        "steps_done_now": result.ran,
        "seconds": round(result.seconds, 3),
        "own_seconds": round(result.own_seconds, 3),
    }


def plain(text: str) -> str:
    """Return a text as Markdown that shows it as it stands, in one line: a name may hold what is markup there."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def score_table(result: Result, scores: Mapping[str, Mapping[str, Score]]) -> Iterator[str]:
    """Yield the lines of a table of scores, by system and measure."""
    measures = result.recipe.measures
    yield _row(["system", *map(plain, measures)])
    yield _row(["---"] * (len(measures) + 1))
    for system in result.recipe.systems:
        if system in scores:
            yield _row([plain(system), *(_score_cell(scores[system][measure]) for measure in measures)])


def _lines(result: Result) -> Iterator[str]:
    recipe = result.recipe
    yield f"# {plain(recipe.title)}"
    if recipe.about:
        yield from ("", recipe.about.strip())
    for name, found in result.collections.items():
        yield from ("", f"## {plain(name)}", "")
        yield from _collection(result, found)
    for name, scores in result.means.items():
        yield from ("", f"## {plain(name)}", "", f"Means of {plain(', '.join(recipe.means[name]))}.", "")
        yield from score_table(result, scores)
    commands = [shown for step in result.steps if (shown := step.shown())]
    fence = "`" * (1 + max((len(run) for shown in commands for run in re.findall("`+", shown)), default=2))
    fence = max("```", fence, key=len)
    yield from ("", "## Commands", "", f"{fence}bash", *commands, fence, "", "## Machine and versions", "")
    cores = allowed_cores()
    yield f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}" + (
        f", {cores} core{'s' if cores > 1 else ''}" if cores else ""
    )
    yield ""
    yield ", ".join(f"{package} {version}" for package in _PACKAGES if (version := installed_version(package)))


def _collection(result: Result, found: CollectionResult) -> Iterator[str]:
    prepared = found.plan.prepared
    record = result.records.get(prepared)
    if record is not None:
        named = [f"{record[name]:,} {name}" for name in COUNTS if name in record]
        yield ", ".join(one for one in named if not one.startswith("0 ")) + "."
        yield ""
    yield from score_table(result, found.scores)
    yield ""
    if len(found.scores) > 1:
        yield (
            f"In brackets: {CONFIDENCE:.0%} of the means of resampled queries. ▲ better and ▼ worse than "
            f"{plain(result.recipe.against)}, by a paired t-test with p < {SIGNIFICANT} after Holm's correction."
        )
        yield ""
    yield from _costs(result, found)
    yield from (f"- {plain(system)} failed: {plain(problem)}" for system, problem in found.problems.items())


def _costs(result: Result, found: CollectionResult) -> Iterator[str]:
    yield _row(["system", *(quantity.title for quantity in QUANTITIES)])
    yield _row(["---"] * (len(QUANTITIES) + 1))
    for system in found.scores:
        costs, held = asdict(found.costs[system]), result.budgets[found.plan.name].get(system, {})
        yield _row([plain(system), *(_cost_cell(one, costs[one.field], held.get(one.field)) for one in QUANTITIES)])
    yield ""
    yield (
        "Documents per second: the whole command. Query: encoding one query and finding its ten best documents, on one "
        "thread, when everything is warm; of a fusion the sum of its parts. Memory: the largest of a command."
    )
    yield ""


def _score_cell(score: Score) -> str:
    cell = f"{score.mean:.4f}" + (f" [{score.low:.3f}, {score.high:.3f}]" if score.low < score.high else "")
    if score.p_value is not None and score.p_value < SIGNIFICANT:
        cell += " ▲" if score.is_better else " ▼"
    if score.verdict is not None and score.expected is not None:
        cell += f" {score.verdict}" + (f" ({plain(score.expected.source)} {score.expected.score:g})"
                                       if score.verdict != "OK" else "")  # fmt: skip
    return cell


def _cost_cell(quantity: Quantity, value: float | None, held: Held | None) -> str:
    if value is None:
        return "-"
    return quantity.shown(value) + (
        f" {held.verdict} ({held.bound} {quantity.shown(held.limit)})" if held is not None else ""
    )


def _score_json(score: Score) -> dict[str, Any]:
    return {
        "mean": score.mean, "low": score.low, "high": score.high, "p_value": score.p_value, "verdict": score.verdict,
        "expected": None if score.expected is None else score.expected.model_dump(),
    }  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""The runner of a recipe: every step that is not done yet, then the scores; one broken system loses nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pyserini_llm_sparse.errors import LlmSparseError
from pyserini_llm_sparse.regressions.outcome.costs import system_costs
from pyserini_llm_sparse.regressions.outcome.results import CollectionResult, Result
from pyserini_llm_sparse.regressions.outcome.scores import Judgements, score_systems
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.run.plan import CollectionPlan
from pyserini_llm_sparse.regressions.run.steps import Step

Note = Callable[[str], None]


def run_recipe(recipe: Recipe, plans: Sequence[CollectionPlan], note: Note, progress: Note | None = None) -> Result:
    """Do what is not done yet, and score all rankings.

    Args:
        recipe: The recipe.
        plans: Of its collections.
        note: Told what is being done.
        progress: Told how far a command says that it is, while it runs.
    """
    started = time.monotonic()
    records: dict[Step, dict[str, Any]] = {}
    problems: dict[Step, str] = {}
    waiting: list[Step] = []
    for step in dict.fromkeys(step for plan in plans for step in plan.steps):
        try:
            record = step.record()
        except LlmSparseError as error:  # a model or a collection is not there
            problems[step] = str(error)
            continue
        if record is None:
            waiting.append(step)
        else:
            records[step] = record
    before, in_steps = len(records), 0.0
    took = [step.earlier_seconds() for step in waiting]
    for number, step in enumerate(waiting):
        if (earlier := next((one for one in step.after if one in problems), None)) is not None:
            problems[step] = problems[earlier]
            continue
        note(f"[{number + 1}/{len(waiting)}] {step.title}{_time_left(took[number:])}")
        if shown := step.shown():
            note(f"  {shown}")
        began = time.monotonic()
        try:
            records[step] = step.run(progress)
        except LlmSparseError as error:
            problems[step] = str(error)
            note(f"  failed: {error}")
        in_steps += time.monotonic() - began
    ran = len(records) - before
    _add_earlier(plans, records)
    found = {plan.name: _scored(recipe, plan, records, problems) for plan in plans}
    seconds = time.monotonic() - started
    return Result(recipe, found, records, ran, seconds, seconds - in_steps)


def _add_earlier(plans: Sequence[CollectionPlan], records: dict[Step, dict[str, Any]]) -> None:
    """Add the records of systems that were not asked for now and are done: they belong into the report as well."""
    for plan in plans:
        for system in [name for name in plan.systems if name not in plan.wanted]:
            steps = plan.systems[system]
            if all(step.earlier_seconds() is not None for step in steps):  # else nothing of it is looked at
                with suppress(LlmSparseError):  # a model that is gone
                    found = {step: step.record() for step in (*steps, *plan.details[system])}
                    if all(found[step] for step in steps):
                        records.update({step: record for step, record in found.items() if record})


def _scored(
    recipe: Recipe, plan: CollectionPlan, records: dict[Step, dict[str, Any]], problems: dict[Step, str]
) -> CollectionResult:
    result = CollectionResult(plan)
    judgements = None if plan.prepared in problems else Judgements(plan.qrels)
    for system, steps in plan.systems.items():
        if system not in plan.wanted and not all(step in records for step in steps):
            continue
        if (broken := next((step for step in steps if step in problems), None)) is not None:
            result.problems[system] = problems[broken]
        elif judgements is not None:
            result.values[system] = judgements.values(plan.run(system), recipe.measures)
    if judgements is not None:
        result.queries = judgements.queries
    result.scores = score_systems(result.values, recipe.against, recipe.expected.get(plan.name, {}))
    for system in result.scores:
        result.costs[system] = system_costs(recipe.systems, plan, records, system)
        for step in plan.details[system]:
            if step in problems:
                result.problems[f"{system} ({step.folder.name})"] = problems[step]
    return result


def _time_left(took: Sequence[float | None]) -> str:
    """Return how long steps took the last time, with other inputs as it may be; nothing where that is not known."""
    known = [seconds for seconds in took if seconds is not None]
    if not known:
        return ""
    return f" (what is left took {'' if len(known) == len(took) else 'more than '}{sum(known):,.0f} s the last time)"

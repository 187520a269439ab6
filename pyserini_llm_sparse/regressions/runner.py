"""The runner of a recipe: every step that is not done yet, then the scores; one broken system loses nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.files.atomic import atomic_file, disk_errors
from pyserini_llm_sparse.regressions.outcome.costs import Costs, system_costs
from pyserini_llm_sparse.regressions.outcome.problems import contained
from pyserini_llm_sparse.regressions.outcome.results import CollectionResult, Result
from pyserini_llm_sparse.regressions.outcome.scores import Judgements, score_systems
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.report.markdown import report
from pyserini_llm_sparse.regressions.report.page import rendered
from pyserini_llm_sparse.regressions.report.page_data import page_data
from pyserini_llm_sparse.regressions.run.plan import CollectionPlan
from pyserini_llm_sparse.regressions.run.steps import RECORD, Step

REPORT, PAGE = "report.md", "report.html"

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
    for step in ordered(plans):
        with contained(problems, step):  # a model or a collection may not be there
            record = step.record()
            if record is not None and not _is_whole(record):
                with disk_errors(step.folder):
                    (step.folder / RECORD).unlink()
                record = None
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
        if (missing := _in_vain(step, plans, problems)) is not None:
            problems[step] = missing
            continue
        note(f"[{number + 1}/{len(waiting)}] {step.title}{_time_left(took[number:])}")
        if shown := step.shown():
            note(f"  {shown}")
        began = time.monotonic()
        with contained(problems, step):
            records[step] = step.run(progress)
        if step in problems:
            note(f"  failed: {problems[step]}")
        in_steps += time.monotonic() - began
    ran = len(records) - before
    _add_earlier(plans, records)
    found = {plan.name: score_collection(recipe, plan, records, problems) for plan in plans}
    seconds = time.monotonic() - started
    return Result(recipe, found, records, ran, seconds, seconds - in_steps)


def write_reports(result: Result, folder: Path) -> None:
    """Write the report as Markdown and as a page; what the page cannot show becomes a problem of the result.

    Raises:
        ResourceError: The folder cannot be written to.
    """
    data = page_data(result)
    for shown in data["collections"]:
        result.collections[shown["name"]].problems.update(shown["problems"])
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, make in ((REPORT, lambda: report(result)), (PAGE, lambda: rendered(data))):
        with atomic_file(folder / name) as stream:
            stream.write(make().encode())


def ordered(plans: Sequence[CollectionPlan]) -> list[Step]:
    """Return each step once, the collections first: one that is missing shows before a model is trained."""
    collections = [step for plan in plans if plan.wanted for step in (plan.documents, plan.prepared)]
    return list(dict.fromkeys([*collections, *(step for plan in plans for step in plan.steps)]))


def _in_vain(step: Step, plans: Sequence[CollectionPlan], problems: Mapping[Step, str]) -> str | None:
    """Return why a step need not be done, if each system that wants it is broken elsewhere; else None."""
    reason = None
    for plan in plans:
        for system in plan.wanted:
            if step in plan.systems[system] or step in plan.details[system]:
                reason = next((problems[one] for one in plan.systems[system] if one in problems), None)
                if reason is None:
                    return None
    return reason


def _add_earlier(plans: Sequence[CollectionPlan], records: dict[Step, dict[str, Any]]) -> None:
    """Add the records of systems that were not asked for now and are done: they belong into the report as well."""
    for plan in plans:
        for system in [name for name in plan.systems if name not in plan.wanted]:
            steps = plan.systems[system]
            with contained({}, system):  # a model that is gone
                if all(step.earlier_seconds() is not None for step in steps):  # else nothing of it is looked at
                    found = {step: step.record() for step in (*steps, *plan.details[system])}
                    whole = {step: record for step, record in found.items() if record and _is_whole(record)}
                    if all(step in whole for step in steps):
                        records.update(whole)


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Tell whether a step's record has what costs are computed from; a step with a damaged one is done again."""
    seconds, peak = record.get("seconds"), record.get("peak_bytes", "")
    return isinstance(seconds, int | float) and (peak is None or isinstance(peak, int))


def score_collection(
    recipe: Recipe, plan: CollectionPlan, records: dict[Step, dict[str, Any]], problems: dict[Step, str]
) -> CollectionResult:
    """Return the scores and costs of the systems on a collection; what cannot be found out is among its problems.

    Args:
        recipe: The recipe.
        plan: Of the collection.
        records: Of all steps that are done.
        problems: Why the others are not.
    """
    result = CollectionResult(plan)
    unreadable: dict[str, str] = {}
    judgements = None
    if plan.prepared not in problems:
        with contained(unreadable, plan.name):
            judgements = Judgements(plan.qrels)
            result.queries = judgements.queries
    for system, steps in plan.systems.items():
        if system not in plan.wanted and not all(step in records for step in steps):
            continue
        if (broken := next((step for step in steps if step in problems), None)) is not None:
            result.problems[system] = problems[broken]
        elif judgements is None:
            result.problems[system] = unreadable[plan.name]
        else:
            with contained(result.problems, system):
                result.values[system] = judgements.values(plan.run(system), recipe.measures)
    result.scores = score_systems(result.values, recipe.against, recipe.expected.get(plan.name, {}))
    for system in result.scores:
        result.costs[system] = Costs()
        with contained(result.problems, f"{system} (costs)"):
            result.costs[system] = system_costs(recipe.systems, plan, records, system)
        for step in plan.details[system]:
            if step in problems:
                result.problems[f"{system} ({step.folder.name})"] = problems[step]
    return result


def _time_left(took: Sequence[float | None]) -> str:
    """Return how long steps took the last time, with other inputs as it may be; nothing where that is not known."""
    known = [seconds for seconds in took if isinstance(seconds, int | float)]
    if not known:
        return ""
    return f" (what is left took {'' if len(known) == len(took) else 'more than '}{sum(known):,.0f} s the last time)"

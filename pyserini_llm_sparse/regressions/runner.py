"""Runs a recipe: every step that is not done yet, then the scores; what is broken keeps nothing else from running."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import LlmSparseError
from pyserini_llm_sparse.regressions.outcome.costs import Costs, Held, held_against, system_costs
from pyserini_llm_sparse.regressions.outcome.scores import Judgements, Score, mean_scores, score_systems
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.run.plan import CollectionPlan
from pyserini_llm_sparse.regressions.run.steps import Step

Note = Callable[[str], None]


@dataclass
class CollectionResult:
    """What was found on a collection.

    Attributes:
        plan: How.
        scores: By system and measure, of the systems that ran.
        values: By system and measure, that of each query.
        queries: Ids of the judged queries, in the order of the values.
        problems: Why the others did not, by system; and why more could not be found out about one that did.
    """

    plan: CollectionPlan
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    values: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """What came of a recipe.

    Attributes:
        recipe: The recipe.
        collections: By name.
        records: Of all steps that are done.
        ran: How many of them were done now.
        seconds: Of the whole run.
        own_seconds: Those that no step took.
    """

    recipe: Recipe
    collections: dict[str, CollectionResult]
    records: dict[Step, dict[str, Any]]
    ran: int
    seconds: float
    own_seconds: float

    @property
    def steps(self) -> list[Step]:
        """All steps that are done, each once, in an order in which they can be done."""
        plans = [found.plan for found in self.collections.values()]
        steps = dict.fromkeys(step for plan in plans for step in plan.steps_of(plan.systems))
        return [step for step in steps if step in self.records]

    @cached_property
    def costs(self) -> dict[str, dict[str, Costs]]:
        """What systems cost, by collection and system."""
        return {
            name: {system: system_costs(self, found, system) for system in found.scores}
            for name, found in self.collections.items()
        }

    @cached_property
    def budgets(self) -> dict[str, dict[str, dict[str, Held]]]:
        """The costs that have a budget held against it, by collection, system and the cost's field."""
        return {
            name: {
                system: held_against(costs, budgets[system]) for system, costs in by_system.items() if system in budgets
            }
            for name, by_system in self.costs.items() for budgets in [self.recipe.budgets.get(name, {})]
        }  # fmt: skip

    @cached_property
    def means(self) -> dict[str, dict[str, dict[str, Score]]]:
        """The recipe's means by name, system and measure."""
        scored = {name: found.scores for name, found in self.collections.items()}
        for name, of in self.recipe.means.items():
            scored[name] = mean_scores([scored.get(one, {}) for one in of], self.recipe.expected.get(name, {}))
        return {name: scored[name] for name in self.recipe.means}

    @property
    def failed(self) -> list[str]:
        """What is not as expected or over its budget, in words."""
        scores = [
            f"{name}: {system}: {measure} is {score.mean:.4f}, {score.expected.score:g} was expected"
            for name, by_system in [
                *((name, found.scores) for name, found in self.collections.items()),
                *self.means.items(),
            ]
            for system, of_system in by_system.items()
            for measure, score in of_system.items()
            if score.verdict == "FAIL" and score.expected is not None
        ]
        return scores + [
            f"{name}: {system}: {cost} is {_exact(held.value)}, {held.bound} {_exact(held.limit)} was budgeted"
            for name, by_system in self.budgets.items()
            for system, of_system in by_system.items()
            for cost, held in of_system.items()
            if held.verdict == "FAIL"
        ]

    @property
    def problems(self) -> list[str]:
        """What could not be run, in words; systems with the same reason are named together."""
        found: dict[str, list[str]] = {}
        for name, collection in self.collections.items():
            for system, problem in collection.problems.items():
                found.setdefault(problem, []).append(f"{name}: {system}")
        return [f"{problem} (no score for {', '.join(systems)})" for problem, systems in found.items()]


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


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

"""The outcome of a recipe: scores, costs and problems of its systems on each collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.regressions.outcome.costs import Costs, Held, held_against
from pyserini_llm_sparse.regressions.outcome.scores import Score, mean_scores
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.run.plan import CollectionPlan
from pyserini_llm_sparse.regressions.run.steps import Step


@dataclass
class CollectionResult:
    """The outcome on a collection.

    Attributes:
        plan: How it came about.
        scores: By system and measure, of the systems that ran.
        values: By system and measure, that of each query.
        queries: Ids of the judged queries, in the order of the values.
        costs: By system, of those that ran.
        problems: Why the others did not, by system; and, as ``system (part)``, why a part of the report is missing
            about one that did.
    """

    plan: CollectionPlan
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    values: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    costs: dict[str, Costs] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """The outcome of a recipe.

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
    def budgets(self) -> dict[str, dict[str, dict[str, Held]]]:
        """The costs that have a budget held against it, by collection, system and the cost's field."""
        found: dict[str, dict[str, dict[str, Held]]] = {}
        for name, collection in self.collections.items():
            budgets = self.recipe.budgets.get(name, {})
            found[name] = {
                system: held_against(costs, budgets[system])
                for system, costs in collection.costs.items()
                if system in budgets
            }
        return found

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
            f"{name}: {system}: {cost} is {held.reason}"
            for name, by_system in self.budgets.items()
            for system, of_system in by_system.items()
            for cost, held in of_system.items()
            if held.verdict == "FAIL"
        ]

    @property
    def problems(self) -> list[str]:
        """What could not be run or found out, in words; systems with the same reason are named together."""
        without: dict[str, list[str]] = {}
        unknown: dict[str, list[str]] = {}
        for name, collection in self.collections.items():
            for system, problem in collection.problems.items():
                (without if system in collection.plan.systems else unknown).setdefault(problem, []).append(
                    f"{name}: {system}"
                )
        return [f"{problem} (no score for {', '.join(systems)})" for problem, systems in without.items()] + [
            f"{problem} (not in the report: {', '.join(parts)})" for problem, parts in unknown.items()
        ]

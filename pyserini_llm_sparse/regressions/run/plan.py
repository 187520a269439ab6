"""The plan of a recipe: the steps of its systems on each of its collections, each step once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.run.collection import QRELS, TOPICS, Collection
from pyserini_llm_sparse.regressions.run.collection_steps import CollectionSteps, versions
from pyserini_llm_sparse.regressions.run.indexes import Indexes
from pyserini_llm_sparse.regressions.run.layout import COLLECTION, RUN, TRAINED
from pyserini_llm_sparse.regressions.run.models import TrainedModels
from pyserini_llm_sparse.regressions.run.planner import Planner
from pyserini_llm_sparse.regressions.run.steps import Step

DATA = "{data}"  # in a command that trains: the folder of the collections


@dataclass
class CollectionPlan:
    """The steps on one collection.

    Attributes:
        name: The collection's name.
        prepared: The step that lays it out.
        documents: The step that lays out its documents: the same, or that of another collection.
        wanted: Names of the systems that are to be run.
        systems: The steps of each system, in order; the last one makes its run file.
        details: Steps that find out more about each system: its costs, and what explains its scores.
    """

    name: str
    prepared: Step
    documents: Step
    wanted: tuple[str, ...]
    systems: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    details: dict[str, tuple[Step, ...]] = field(default_factory=dict)

    @property
    def steps(self) -> list[Step]:
        """The steps of the wanted systems, each once, in an order in which they can be done."""
        return self.steps_of(self.wanted)

    def steps_of(self, systems: Iterable[str]) -> list[Step]:
        """Return the steps of systems, each once, in an order in which they can be done."""
        names = list(systems)
        of_systems = [step for name in names for step in self.systems[name]]
        return list(dict.fromkeys([*of_systems, *(step for name in names for step in self.details[name])]))

    @property
    def topics(self) -> Path:
        """The judged queries: lines of id, tab and text."""
        return self.prepared.folder / TOPICS

    @property
    def qrels(self) -> Path:
        """The judgements."""
        return self.prepared.folder / QRELS

    def run(self, system: str) -> Path:
        """Return a system's run file."""
        return self.systems[system][-1].folder / RUN


def plan_recipe(
    recipe: Recipe, data: Path, work: Path, threads: int, only: Sequence[str] | None = None
) -> list[CollectionPlan]:
    """Plan the systems of a recipe on all of its collections; neither those nor models are looked at yet.

    Args:
        recipe: The recipe.
        data: Folder that relative paths of collections are in.
        work: Folder for everything that is made, but for trained models, which go beside it.
        threads: Of indexing and searching.
        only: Names of the systems that are wanted; None for all.
    """
    trained = TrainedModels({
        name: Step(
            f"train {name} (takes {training.minutes})", work.parent / TRAINED / name,
            tuple(part.replace(DATA, str(data)) for part in training.command), contents={"versions": versions},
            resumes=True,
        )
        for name, training in recipe.train.items()
    })  # fmt: skip
    plans: dict[str, CollectionPlan] = {}
    indexes: dict[str, Indexes] = {}
    for name, source in recipe.collections.items():
        collection = Collection(source, data)
        prepared = Step(
            f"{name}: prepare the collection", work / name / COLLECTION, work=collection.write,
            contents={"collection": collection.digest},
        )  # fmt: skip
        own = CollectionSteps(prepared, work / name, threads)
        indexes[name] = indexes.get(source.documents_of or "") or Indexes(own, data, trained)
        planner = Planner(recipe, own, indexes[name], data, trained)
        plans[name] = CollectionPlan(
            name, prepared, indexes[name].documents, tuple(only or recipe.systems),
            {system: planner.steps(system) for system in recipe.systems},
            {system: planner.details(system) for system in recipe.systems},
        )  # fmt: skip
    return list(plans.values())

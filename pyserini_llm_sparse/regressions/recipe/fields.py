"""The fields of a regression recipe, and its reader.

Collections, systems, measures and expected scores are each named once; everything that is run follows from them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from pyserini_llm_sparse.errors import DataError, UsageError, at
from pyserini_llm_sparse.files.measures import parse_measure
from pyserini_llm_sparse.files.settings import listed, mistakes, read_settings
from pyserini_llm_sparse.regressions.recipe.systems import NAME, TRAINED, Fusion, Part, Run, System

MEASURES = ("nDCG@10", "RR@10", "R@100", "AP")
TOLERANCE = 0.0005  # scores are published with three or four digits


class CollectionSource(Part):
    """The source of a collection: a BEIR folder, an ir_datasets id, or documents, topics and judgements.

    Attributes:
        beir: Folder with ``corpus.jsonl``, ``queries.jsonl`` and ``qrels``; each may be compressed.
        split: Which of the folder's qrels.
        irds: Id of an ir_datasets dataset with documents, queries and judgements.
        corpus: A corpus, as `encode` takes it; not needed where all indexes are prebuilt.
        topics: Topics, as `search` takes them, or Pyserini's name of them; with ``pyserini:`` before its path, a file
            in a format that Pyserini knows by the path.
        qrels: Judgements in TREC's or BEIR's columns, or Pyserini's name of them.
        documents_of: An earlier collection with the same documents, whose indexes are searched.
        remove_query: Whether a document is left out of the ranking of the query with its id, as BEIR does it.
        fields: Fields of a document that make its text; by default its contents, else title and text.
    """

    beir: Path | None = None
    split: str = "test"
    irds: str | None = None
    corpus: Path | None = None
    topics: str | None = None
    qrels: Path | None = None
    documents_of: str | None = None
    remove_query: bool = False
    fields: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = (self.corpus, self.topics, self.qrels)
        ways = [self.beir is not None, self.irds is not None, any(file is not None for file in files)]
        if sum(ways) != 1 or (ways[2] and None in (self.topics, self.qrels)):
            raise ValueError("name one source: beir, irds, or corpus, topics and qrels")
        return self

    @property
    def has_documents(self) -> bool:
        """Whether it has documents of its own."""
        return self.documents_of is None and not (self.beir is None and self.irds is None and self.corpus is None)


class Training(Part):
    """A model that the recipe trains, before what needs it.

    Attributes:
        command: Arguments of ``python -m``: a module, and its options; ``{data}`` in them is the folder of the
            collections, ``{folder}`` that of the model.
        minutes: About how long it takes, and on what; told before it starts.
    """

    command: tuple[str, ...] = Field(min_length=1)
    minutes: str


class Expected(Part):
    """A score that is expected.

    Attributes:
        score: The score.
        tolerance: How far it may be off and still be OK; ten times as far is OKish.
        source: Whether it was ``measured`` here before, or ``published``.
    """

    score: float
    tolerance: float = Field(TOLERANCE, gt=0)
    source: Literal["measured", "published"] = "measured"


def _as_expected(value: Any) -> Any:
    return {"score": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class Budget(Part):
    """The costs that a system may have on a collection.

    Attributes:
        documents_per_second: Documents encoded per second, at least.
        index_bytes: Size of what is searched, at most; so are all that follow.
        postings: Of the index.
        latency_p50_ms: Milliseconds of a single query, median.
        latency_p99_ms: The same, of the slowest one in a hundred.
        model_bytes: Size of the weights.
        seconds: Of all of its steps.
        peak_bytes: Largest memory of a step.
    """

    documents_per_second: float | None = None
    index_bytes: float | None = None
    postings: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    model_bytes: float | None = None
    seconds: float | None = None
    peak_bytes: float | None = None


class Recipe(Part):
    """A regression recipe.

    Attributes:
        title: What is compared, in a few words.
        about: More of it, for the report.
        train: Models by name that are trained first.
        collections: Test collections by name.
        means: Names for the mean of several collections' scores, such as that of BEIR, and those collections or
            earlier means.
        systems: Systems by name, in the order of the tables.
        baseline: Name of the system that the others are tested against; by default the first.
        measures: In the notation of ir-measures.
        hits: Documents of a ranking, at most.
        expected: Scores by collection or mean, system and measure.
        budgets: What systems may cost, by collection and system.
    """

    title: str
    about: str = ""
    train: dict[str, Training] = Field(default_factory=dict)
    collections: dict[str, CollectionSource] = Field(min_length=1)
    means: dict[str, Annotated[tuple[str, ...], Field(min_length=2)]] = Field(default_factory=dict)
    systems: dict[str, System] = Field(min_length=1)
    baseline: str = ""
    measures: tuple[str, ...] = Field(MEASURES, min_length=1)
    hits: int = Field(1000, ge=1)
    expected: dict[str, dict[str, dict[str, Annotated[Expected, BeforeValidator(_as_expected)]]]] = Field(
        default_factory=dict
    )
    budgets: dict[str, dict[str, Budget]] = Field(default_factory=dict)

    @field_validator("train", "collections", "means", "systems")
    @classmethod
    def _names(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"{name!r}: letters, digits and . _ + - make a name")
        return named

    @field_validator("measures")
    @classmethod
    def _known_measures(cls, measures: tuple[str, ...]) -> tuple[str, ...]:
        for measure in measures:
            try:
                parse_measure(measure)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return measures

    @model_validator(mode="after")
    def _references(self) -> Self:
        """Refuse names of systems, collections and measures that the recipe does not have."""
        earlier: list[str] = []
        for name, system in self.systems.items():
            if isinstance(system, Fusion) and (unknown := [one for one in system.of if one not in earlier]):
                raise ValueError(f"systems.{name}.of: no earlier system {', '.join(unknown)}; list those first")
            earlier.append(name)
            for part in (getattr(system, "encoder", ""), getattr(system, "model", "")):
                if (trained := re.search(f"{TRAINED}({NAME})", part)) and trained[1] not in self.train:
                    raise ValueError(f"systems.{name}: trains no model {trained[1]}; name it under train")
        known: list[str] = []
        for name, source in self.collections.items():
            if source.documents_of and source.documents_of not in known:
                raise ValueError(f"collections.{name}.documents_of: no earlier collection {source.documents_of}")
            known.append(name)
            if not source.has_documents and not source.documents_of:
                for label, described in self.systems.items():
                    if not isinstance(described, Fusion | Run) and described.prebuilt is None:
                        raise ValueError(f"collections.{name}: no corpus, which systems.{label} needs; name one")
        if self.baseline and self.baseline not in self.systems:
            raise ValueError(f"baseline: no system {self.baseline}")
        averaged = list(self.collections)
        for name, of in self.means.items():
            if strange := [one for one in of if one not in averaged]:
                raise ValueError(f"means.{name}: no collection or earlier mean {strange[0]}")
            averaged.append(name)
            if name in self.collections:
                raise ValueError(f"means.{name}: a collection has this name; choose another")
        for field, by_collection, scored in (
            ("expected", self.expected, {*self.collections, *self.means}), ("budgets", self.budgets, self.collections),
        ):  # fmt: skip
            for collection, by_system in by_collection.items():
                if collection not in scored:
                    raise ValueError(f"{field}.{collection}: no such collection")
                if strange := [name for name in by_system if name not in self.systems]:
                    raise ValueError(f"{field}.{collection}.{strange[0]}: no such system")
        for collection, systems in self.expected.items():
            for name, scores in systems.items():
                if unknown := [measure for measure in scores if measure not in self.measures]:
                    raise ValueError(f"expected.{collection}.{name}.{unknown[0]}: not among the measures")
        return self

    @property
    def against(self) -> str:
        """The system that the others are tested against."""
        return self.baseline or next(iter(self.systems))


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        ResourceError: The file cannot be read.
        DataError: It is not YAML, or a field is unknown or has an impossible value; such lines are named.
    """
    path = Path(path)
    content, lines = read_settings(path, "recipe")
    if not {"collections", "systems"} & content.keys():
        raise DataError(
            f"{path}: not a recipe: it has neither collections nor systems; docs/regressions.md describes recipes"
        )
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        found = [f"{at(path, mistake.line)}: {mistake.reason}" for mistake in mistakes(error, lines)]
        raise DataError(listed(found)) from error

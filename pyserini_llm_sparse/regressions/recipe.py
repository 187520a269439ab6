"""What a regression recipe says, validated; `recipe_file` reads it.

Collections, systems, measures and expected scores are each named once; everything that is run follows from them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from pyserini_llm_sparse.catalog import KEYWORD
from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.measures import parse_measure

MEASURES = ("nDCG@10", "RR@10", "R@100", "AP")
TOLERANCE = 0.0005  # scores are published with three or four digits
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # names become folders


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CollectionSource(_Part):
    """Where a collection comes from: a BEIR folder, an ir_datasets id, or three files.

    Attributes:
        beir: Folder with ``corpus.jsonl``, ``queries.jsonl`` and ``qrels``; each may be compressed.
        split: Which of the folder's qrels.
        irds: Id of an ir_datasets dataset with documents, queries and judgements.
        corpus: A corpus, as `encode` takes it.
        topics: Topics, as `search` takes them.
        qrels: Judgements in TREC's or BEIR's columns.
        fields: Fields of a document that make its text; by default its contents, else title and text.
    """

    beir: Path | None = None
    split: str = "test"
    irds: str | None = None
    corpus: Path | None = None
    topics: Path | None = None
    qrels: Path | None = None
    fields: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = [self.corpus, self.topics, self.qrels]
        ways = [self.beir is not None, self.irds is not None, any(file is not None for file in files)]
        if sum(ways) != 1 or (ways[2] and None in files):
            raise ValueError("name one source: beir, irds, or all of corpus, topics and qrels")
        return self


class Bm25(_Part):
    """BM25, Anserini's; with RM3 if wanted.

    Attributes:
        kind: ``bm25``.
        k1: Saturation of a term's frequency.
        b: Normalisation by length.
        rm3: Whether queries are expanded by pseudo-relevance feedback.
    """

    kind: Literal["bm25"]
    k1: float = Field(0.9, ge=0)
    b: float = Field(0.4, ge=0, le=1)
    rm3: bool = False


class Csplade(_Part):
    """A causal-LM sparse encoder, this package's.

    Attributes:
        kind: ``csplade``.
        encoder: Its name, as in ``--encoder``.
        precision: Of ONNX Runtime; None for torch.
        query_encoder: ``inference-free`` or ``model``; None as the model's spec says.
        batch_size: Texts computed together at most.
    """

    kind: Literal["csplade"]
    encoder: str = KEYWORD
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] | None = None
    query_encoder: Literal["inference-free", "model"] | None = None
    batch_size: int = Field(64, ge=1)


class Dense(_Part):
    """A dense encoder, with exact or approximate search.

    Attributes:
        kind: ``dense``.
        model: Path, hub id, or ``package:NAME/FOLDER`` for a folder in an installed Python package.
        dimension: Of its vectors.
        pooling: ``mean`` or ``cls``, the first token's.
        normalise: Whether vectors have length 1, so that scores are cosines.
        index: ``flat`` for exact search in faiss, ``hnsw`` for its graph.
        max_length: Most tokens of a document.
        query_prefix: Text before queries.
        document_prefix: Text before documents.
        batch_size: Texts computed together.
    """

    kind: Literal["dense"]
    model: str
    dimension: int = Field(ge=1)
    pooling: Literal["mean", "cls"] = "mean"
    normalise: bool = True
    index: Literal["flat", "hnsw"] = "flat"
    max_length: int = Field(256, ge=1)
    query_prefix: str | None = None
    document_prefix: str | None = None
    batch_size: int = Field(64, ge=1)


class Fusion(_Part):
    """The rankings of other systems, fused.

    Attributes:
        kind: ``fusion``.
        of: Names of the systems.
        method: ``rrf``, by reciprocal ranks; ``interpolation`` of two systems' scores; ``average`` of scores.
        rrf_k: Added to each rank.
        alpha: The first system's share in an interpolation.
    """

    kind: Literal["fusion"]
    of: tuple[str, ...] = Field(min_length=2)
    method: Literal["rrf", "interpolation", "average"] = "rrf"
    rrf_k: int = Field(60, ge=1)
    alpha: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _two_of_an_interpolation(self) -> Self:
        if self.method == "interpolation" and len(self.of) != 2:
            raise ValueError("of: an interpolation is of two systems; use rrf or average for more")
        return self


System = Annotated[Bm25 | Csplade | Dense | Fusion, Field(discriminator="kind")]


class Expected(_Part):
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


class Recipe(_Part):
    """A regression recipe.

    Attributes:
        title: What is compared, in a few words.
        about: More of it, for the report.
        collections: Test collections by name.
        systems: Systems by name, in the order of the tables.
        baseline: Name of the system that the others are tested against; by default the first.
        measures: In the notation of ir-measures.
        hits: Most documents of a ranking.
        expected: Scores by collection, system and measure.
    """

    title: str
    about: str = ""
    collections: dict[str, CollectionSource] = Field(min_length=1)
    systems: dict[str, System] = Field(min_length=1)
    baseline: str = ""
    measures: tuple[str, ...] = Field(MEASURES, min_length=1)
    hits: int = Field(1000, ge=1)
    expected: dict[str, dict[str, dict[str, Annotated[Expected, BeforeValidator(_as_expected)]]]] = Field(
        default_factory=dict
    )

    @field_validator("collections", "systems")
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
        if self.baseline and self.baseline not in self.systems:
            raise ValueError(f"baseline: no system {self.baseline}")
        for collection, systems in self.expected.items():
            if collection not in self.collections:
                raise ValueError(f"expected.{collection}: no such collection")
            for name, scores in systems.items():
                if name not in self.systems:
                    raise ValueError(f"expected.{collection}.{name}: no such system")
                if unknown := [measure for measure in scores if measure not in self.measures]:
                    raise ValueError(f"expected.{collection}.{name}.{unknown[0]}: not among the measures")
        return self

    @property
    def against(self) -> str:
        """The system that the others are tested against."""
        return self.baseline or next(iter(self.systems))

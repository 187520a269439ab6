"""The systems that a recipe can compare, as it describes them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pyserini_llm_sparse.indexing.lucene.bm25 import K1, B
from pyserini_llm_sparse.modelling.names import KEYWORD

TRAINED = "trained:"  # in a model's name: one that the recipe trains
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # names become folders


class Part(BaseModel):
    """A part of a recipe: fields that it does not have are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Bm25(Part):
    """BM25, Anserini's; with RM3 if wanted.

    Attributes:
        kind: ``bm25``.
        k1: Saturation of a term's frequency.
        b: Normalisation by length.
        rm3: Whether queries are expanded by pseudo-relevance feedback.
        prebuilt: Pyserini's name of an index, or the path of one, instead of one made of the documents.
    """

    kind: Literal["bm25"]
    k1: float = Field(K1, ge=0)
    b: float = Field(B, ge=0, le=1)
    rm3: bool = False
    prebuilt: str | None = None


class Csplade(Part):
    """A sparse encoder of this package: a causal language model, or a masked one as SPLADE is.

    Attributes:
        kind: ``csplade``.
        encoder: Its name, as in ``--encoder``; ``trained:NAME`` in it is a model of the recipe's ``train``.
        precision: Of ONNX Runtime; None for torch.
        query_encoder: ``inference-free`` or ``model``; None as the model's spec says.
        batch_size: Texts computed together at most.
        prebuilt: Pyserini's name of an index, or the path of one, instead of one made of the documents.
    """

    kind: Literal["csplade"]
    encoder: str = KEYWORD
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] | None = None
    query_encoder: Literal["inference-free", "model"] | None = None
    batch_size: int = Field(64, ge=1)
    prebuilt: str | None = None


class Splade(Part):
    """A SPLADE through Pyserini's own encoder; `Csplade` takes the same models.

    Attributes:
        kind: ``splade``.
        model: Path or hub id of a masked language model, or ``trained:NAME`` for one of the recipe's ``train``.
        max_length: Tokens of a document at most; Pyserini cuts queries at 256.
        batch_size: Texts computed together.
        prebuilt: Pyserini's name of an index, or the path of one, instead of one made of the documents.
    """

    kind: Literal["splade"]
    model: str
    max_length: int = Field(256, ge=1)
    batch_size: int = Field(32, ge=1)
    prebuilt: str | None = None

    @field_validator("model")
    @classmethod
    def _known_by_name(cls, model: str) -> str:
        if "splade" not in model.lower() or "unicoil" in model.lower():
            raise ValueError(f"{model}: Pyserini knows a SPLADE by the word splade in its name or path; rename it")
        return model


class Dense(Part):
    """A dense encoder, with exact or approximate search.

    Attributes:
        kind: ``dense``.
        model: Path, hub id, or ``package:NAME/FOLDER`` for a folder in an installed Python package.
        encoder_class: Pyserini's; ``auto`` is any encoder of transformers with a pooling.
        dimension: Of its vectors.
        pooling: ``mean`` or ``cls``, the first token's.
        normalise: Whether vectors have length 1, so that scores are cosines.
        index: ``flat`` for exact search in faiss, ``hnsw`` for its graph, ``lucene-hnsw`` for Lucene's.
        max_length: Tokens of a document at most.
        query_prefix: Text before queries.
        document_prefix: Text before documents.
        batch_size: Texts computed together.
        prebuilt: Pyserini's name of an index in faiss, or the path of one, instead of one made of the documents.
    """

    kind: Literal["dense"]
    model: str
    encoder_class: Literal["auto", "tct_colbert", "ance", "dpr", "contriever", "arctic"] = "auto"
    dimension: int = Field(768, ge=1)
    pooling: Literal["mean", "cls"] = "mean"
    normalise: bool = True
    index: Literal["flat", "hnsw", "lucene-hnsw"] = "flat"
    max_length: int = Field(256, ge=1)
    query_prefix: str | None = None
    document_prefix: str | None = None
    batch_size: int = Field(64, ge=1)
    prebuilt: str | None = None

    @model_validator(mode="after")
    def _prebuilt_in_faiss(self) -> Self:
        if self.prebuilt and self.index == "lucene-hnsw":
            raise ValueError("prebuilt: an index in faiss; leave it out, or index: lucene-hnsw")
        return self


class Run(Part):
    """A ranking that something else made.

    Attributes:
        kind: ``run``.
        path: A run file in TREC's columns, ``{collection}`` in it being the collection's name.
    """

    kind: Literal["run"]
    path: str


class Fusion(Part):
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


System = Annotated[Bm25 | Csplade | Splade | Dense | Run | Fusion, Field(discriminator="kind")]

"""The run file of each phase, as a class of validated fields; `run_file` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pyserini_llm_sparse.modelling.spec import Attention, EncodingSpec
from pyserini_llm_sparse.training.config.retrieve_fields import RetrieveConfig
from pyserini_llm_sparse.training.config.shared_fields import ModelConfig, PhaseConfig

__all__ = [
    "CONFIGS",
    "AdaptConfig",
    "CalibrateConfig",
    "MineConfig",
    "ModelConfig",
    "Phase",
    "PhaseConfig",
    "RetrieveConfig",
    "ScoreConfig",
]

Phase = Literal["calibrate", "adapt", "retrieve", "mine", "score"]


class CalibrateConfig(PhaseConfig):
    """The vector of a calibrated head, fitted without training: the language model stays what it is."""

    model: str = Field(description="Path or hub id of the causal language model, which may be an adapter.")
    trust_remote_code: bool = Field(default=False, description="Whether code that comes with the model may run.")
    attention: Attention = Field(default="causal", description=EncodingSpec.model_fields["attention"].description)
    text_normalisation: Literal["none", "nfkc", "lowercase"] = Field(
        default="none", description=EncodingSpec.model_fields["text_normalisation"].description
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Type that the model computes in."
    )
    texts: tuple[str, ...] = Field(
        min_length=1, description="Files or directories of texts (JSON lines, TSV, BEIR), irds:ID or hf:DATASET."
    )
    number_of_texts: int = Field(default=160, ge=1, description="How many of them are used, the first.")
    sequence_length: int = Field(default=256, ge=2, description="Maximum number of tokens of a text.")
    kth_logit: int = Field(
        default=50, ge=1, description="Which of a position's logits, counted from the largest, shall become 0, about."
    )


class AdaptConfig(ModelConfig):
    """Adaptation of a language model, before it learns to retrieve."""

    texts: tuple[str, ...] = Field(
        min_length=1, description="Files or directories of texts (JSON lines, TSV, BEIR), irds:ID or hf:DATASET."
    )
    objective: Literal["next-token", "sparse-next-token", "masked-next-token"] = Field(
        default="sparse-next-token",
        description="next-token; sparse-next-token, the same plus the cross-entropy of log1p(relu(logits)) (CSPLADE, "
        "section 3.1); or masked-next-token, where the token before a masked one predicts it (MNTP, as in "
        "2502.15526, section 3.1).",
    )
    sparse_weight: float = Field(default=1.0, ge=0, description="Weight of the second part of sparse-next-token.")
    sequence_length: int = Field(
        default=512,
        ge=8,
        description="Tokens in a sequence; texts are packed until it is full, except for masked-next-token, where each "
        "text is a sequence of its own unless packed says otherwise.",
    )
    packed: bool = Field(
        default=False,
        description="Whether masked-next-token packs texts, too, each with its BOS, one after the other.",
    )
    text_normalisation: Literal["none", "nfkc", "lowercase"] = Field(
        default="none", description=EncodingSpec.model_fields["text_normalisation"].description
    )
    mask_probability: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the tokens that masked-next-token chooses to be predicted."
    )
    mask_random_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the chosen tokens that become a random one instead of mask_token.",
    )
    mask_kept_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of the chosen tokens that stay as they are."
    )
    mask_token: str = Field(
        default="_", description="Token that masks; it must be a single token of the vocabulary."
    )  # not a password
    held_out_texts: int = Field(
        default=0, ge=0, description="Number of sequences kept for evaluation and not trained on."
    )

    keep_tokens: bool = Field(
        default=True,
        description="Whether the tokens of the texts are kept in the cache, 4 bytes each, so that other processes and "
        "later runs do not make them again.",
    )

    @model_validator(mode="after")
    def _check_masking(self) -> AdaptConfig:
        if self.mask_random_share + self.mask_kept_share > 1:
            raise ValueError("mask_random_share: with mask_kept_share more than all of the chosen tokens; lower them")
        return self

    @model_validator(mode="after")
    def _check_attention(self) -> AdaptConfig:
        if self.attention == "bidirectional" and self.objective != "masked-next-token":
            raise ValueError(
                f"objective: {self.objective}: a model that sees the next token learns nothing from predicting it; set "
                "attention: causal (retrieve may still be bidirectional), or objective: masked-next-token"
            )
        return self


class MineConfig(PhaseConfig):
    """Hard negatives: for each query, documents that a retriever ranks high and nobody judged relevant."""

    train: tuple[str, ...] = Field(
        min_length=1,
        description="Training examples whose queries are used; their positives are never taken as negatives.",
    )
    corpus: str | None = Field(
        default=None,
        description="Documents to search: a BEIR directory, a file or a directory; by default the examples' positives.",
    )
    index: str | None = Field(
        default=None,
        description="An index to search in place of making one: a folder, or Pyserini's name of a prebuilt one. Where "
        "no corpus is named, the texts are those that it keeps.",
    )
    run: str | None = Field(
        default=None,
        description="A run file of TREC to take the rankings from in place of searching, by the examples' query ids.",
    )
    encoder: str = Field(default="bm25", description="bm25, or a name that --encoder takes.")
    hits: int = Field(default=100, ge=1, description="Depth of the search.")
    first_rank: int = Field(
        default=1,
        ge=1,
        description="First rank, counted from 1, that a negative is taken from; raise it where judgements are "
        "incomplete.",
    )
    negatives: int = Field(default=15, ge=1, description="Negatives per query, drawn from what is left.")
    least_margin: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="A negative must score at most (1 - least_margin) times the best positive's score (positive-aware "
        "mining, 2407.15831); by default any may be taken.",
    )
    threads: int = Field(default=1, ge=1, description="Search threads.")


class ScoreConfig(PhaseConfig):
    """Scores of a teacher for each query with its positives and negatives."""

    train: tuple[str, ...] = Field(min_length=1, description="Training examples, with or without negatives.")
    teacher: tuple[str, ...] = Field(
        min_length=1,
        description="Path or hub id of the teacher; for sparse, a name that --encoder takes; or a file of scores, a "
        "TREC run or JSON lines; KIND=NAME for another kind than `kind`. Of several the mean counts, each brought "
        "first to 0 to 1 over a query's documents (min-max).",
    )
    kind: Literal["cross-encoder", "sentence-transformers", "sparse"] = Field(
        default="cross-encoder",
        description="cross-encoder; sentence-transformers, whose similarity is the one that the model names; or "
        "sparse.",
    )
    scale: float = Field(default=1.0, gt=0, description="Factor on the scores (a cosine is usually scaled by 20).")
    batch_size: int = Field(default=64, ge=1, description="Texts or pairs that go through the teacher together.")
    max_length: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of tokens of a text or pair; by default the teacher's own limit.",
    )
    trust_remote_code: bool = Field(default=False, description="Whether code that comes with the teacher may run.")

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        """Take one teacher for a list of one."""
        return (str(given),) if isinstance(given, str | Path) else given

    @property
    def name(self) -> str:
        """The teachers' names, for messages."""
        return ", ".join(self.teacher)


CONFIGS: dict[str, type[PhaseConfig]] = {
    "calibrate": CalibrateConfig,
    "adapt": AdaptConfig,
    "retrieve": RetrieveConfig,
    "mine": MineConfig,
    "score": ScoreConfig,
}

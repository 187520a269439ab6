"""The run file of the retrieve phase: its own fields, and those of the encoding spec that its model will have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.shared_fields import ModelConfig
from pyserini_llm_sparse.training.config.spec_fields import spec_field_names, with_spec_fields


class RetrieveSettings(ModelConfig):
    """The fields of the retrieve phase that say how it trains, and on what."""

    train: tuple[str, ...] = Field(
        min_length=1, description="Files or directories of training examples, or hf:DATASET."
    )
    streaming: bool = Field(
        default=False,
        description="Whether examples are read while training goes on instead of being held in memory; needs trainer: "
        "{max_steps: N}.",
    )
    representation: Literal["sparse", "dense"] = Field(
        default="sparse",
        description="sparse, log1p(relu(max logits)); or dense, pooled hidden states.",
    )
    dense_pooling: Literal["last-token", "mean", "normalised-mean"] = Field(
        default="last-token",
        description="Hidden states that make a dense vector: the last token's, or the mean of all, either then of "
        "length 1; or the mean of all after each was scaled to length 1 (Lion).",
    )
    query_term_weights: Literal["learned", "fixed"] = Field(
        default="learned",
        description="Whether the table of inference-free queries is learned, or fixed at its start: sqrt(.3 IDF) "
        "over the training documents.",
    )
    query_term_counts: bool = Field(
        default=True, description=EncodingSpec.model_fields["query_term_counts"].description
    )
    negatives: int = Field(
        default=0,
        ge=0,
        description="Hard negatives per query in a step; drawn anew in each epoch if an example has more.",
    )
    missing_scores: Literal["refuse", "drop"] = Field(
        default="refuse",
        description="What is done where a teacher's score is needed and missing: refuse the data, naming the line, or "
        "drop documents without one, and examples without a positive or negative left.",
    )
    objective: Literal["contrastive", "distillation", "contrastive+distillation"] = Field(
        default="contrastive", description="The parts of the loss."
    )
    contrastive_weight: float = Field(default=1.0, gt=0, description="Weight of the InfoNCE part.")
    distillation_weight: float = Field(default=1.0, gt=0, description="Weight of the distillation part.")
    distillation: Literal["margin-mse", "kl"] = Field(
        default="kl",
        description="margin-mse (Hofstätter et al., 2020) or kl, the KL divergence from the teacher's softmax.",
    )
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="Divides the scores before a softmax, and the margins of margin-mse; by default 1 for sparse and "
        "0.02 for dense vectors.",
    )
    teacher_temperature: float = Field(
        default=1.0, gt=0, description="Divides the teacher's scores before their softmax, and its margins."
    )
    in_batch_negatives: bool = Field(
        default=True,
        description="Whether documents of the other queries are negatives, including those on other devices.",
    )
    false_negative_margin: float | None = Field(
        default=None,
        description="No negative in the contrastive part is a hard negative of a query that the teacher scores above "
        "the positive less this margin; documents that come from other queries only have no such score. By default all "
        "count.",
    )
    regulariser: Literal["flops", "l1", "df-flops"] = Field(
        default="flops",
        description="flops (Paria et al., 2020); l1; or df-flops, where a term's share in FLOPs grows with the "
        "number of documents that have it.",
    )
    query_regulariser_weight: float = Field(default=0.0, ge=0, description="Weight of the regulariser for queries.")
    document_regulariser_weight: float = Field(
        default=0.0, ge=0, description="Weight of the regulariser for documents."
    )
    query_regulariser_threshold: int | None = Field(
        default=None,
        ge=0,
        description="Queries with at most this many terms are not regularised (2504.14839); by default all are.",
    )
    document_regulariser_threshold: int | None = Field(
        default=None, ge=0, description="The same for documents with at most this many terms."
    )
    regularised_terms: Literal["all", "expansions"] = Field(
        default="all",
        description="Which terms of documents are regularised: all, or expansions, those that the text does not "
        "contain.",
    )
    lexical_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the squared error of a document's weights for the terms that it contains to BM25's, "
        "sqrt(.3 IDF) times saturation and length factor (k1 .9, b .4).",
    )
    regulariser_ramp: float = Field(
        default=1 / 3,
        ge=0,
        le=1,
        description="Share of the optimiser steps over which these weights rise quadratically from 0.",
    )
    training_top_k: int | tuple[int | None, ...] | None = Field(
        default=None,
        description="Keep at most this many terms of a vector while training; by default all. With a list, such as "
        "[64, 256, null], where null keeps all, the loss is the mean of what it is at each.",
    )
    training_top_k_kind: Literal["hard", "soft"] = Field(
        default="hard",
        description="hard drops the other terms; soft subtracts the weight of the heaviest one that is dropped.",
    )
    length_groups: int = Field(
        default=4,
        ge=1,
        description="The texts of a step go through the model in this many groups of similar length, so that fewer "
        "tokens are padding; what is computed stays the same.",
    )
    gradient_cache_size: int | None = Field(
        default=None,
        ge=1,
        description="Put at most this many texts through the model at a time, with gradient caching (Gao et al., "
        "2021), so that memory does not limit the contrastive batch; by default the whole batch.",
    )
    stop_on_collapse: bool = Field(
        default=True, description="Whether a run ends when its vectors die or all become alike."
    )
    dev: tuple[str, ...] | None = Field(
        default=None,
        description="BEIR directories (PATH or PATH#SPLIT) to evaluate on during training, every trainer: {eval_steps: "
        "N}; of several, the mean counts.",
    )
    dev_split: str = Field(default="dev", description="Split of their relevance judgements, where none is named.")
    dev_metric: str = Field(
        default="nDCG@10",
        description="Measure, in the notation of ir_measures, that decides on early stopping and the best checkpoint.",
    )
    dev_queries: int | None = Field(
        default=None, ge=1, description="Evaluate on at most this many queries of each; by default all."
    )

    @field_validator("dev", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        """Take one directory for a list of one."""
        return (str(given),) if isinstance(given, str | Path) else given

    @property
    def dev_sets(self) -> dict[str, tuple[str, str]]:
        """Directory and split of each development set, under a name of its own."""
        found: dict[str, tuple[str, str]] = {}
        for given in self.dev or ():
            path, mark, split = given.rpartition("#")
            if not mark or not Path(path).is_dir() or Path(given).exists():
                path, split = given, self.dev_split
            name = f"{Path(path).name}, {split}"
            found[f"{path}, {split}" if name in found else name] = (path, split)
        return found


if TYPE_CHECKING:

    class _RetrieveFields(RetrieveSettings, EncodingSpec):  # type: ignore[misc]  # `save` is a field here
        """The same fields for the type checker, which cannot follow the derivation."""

else:
    _RetrieveFields = with_spec_fields(RetrieveSettings)


class RetrieveConfig(_RetrieveFields):
    """Training of a sparse or dense retriever.

    The fields of the encoding spec carry the same names here, and are saved with the model. Those that are left out
    are as in the model that training starts from.
    """

    @property
    def score_temperature(self) -> float:
        """The divisor of scores before a softmax, and of margins."""
        if self.temperature is not None:
            return self.temperature
        return 0.02 if self.representation == "dense" else 1.0

    @property
    def training_budgets(self) -> tuple[int | None, ...]:
        """How many terms vectors are cut to in training, each budget in turn; None for all terms."""
        return self.training_top_k if isinstance(self.training_top_k, tuple) else (self.training_top_k,)

    @property
    def uses_contrast(self) -> bool:
        """Whether InfoNCE is a part of the loss."""
        return "contrastive" in self.objective

    @property
    def uses_teacher(self) -> bool:
        """Whether distillation is a part of the loss."""
        return "distillation" in self.objective

    @property
    def needs_scores(self) -> bool:
        """Whether the training examples need a teacher's scores."""
        return self.uses_teacher or self.false_negative_margin is not None

    @property
    def takes_pairs(self) -> bool:
        """Whether an example without negatives teaches something: what the batch's other documents do."""
        return not self.negatives or (self.uses_contrast and self.in_batch_negatives)

    def continuing(self, spec: EncodingSpec) -> RetrieveConfig:
        """Return the run file with every field of the spec that it leaves open taken from the model it starts from.

        Training goes on under the contract that a model has, but for the fields that are given. The prefix that a
        model was trained with, say, is not lost by not being mentioned.
        """
        open_fields = set(spec_field_names()) - self.model_fields_set
        if self.representation == "dense":
            open_fields -= {"query_encoder", "calibrated_head"}
        if spec.query_encoder == "model":  # which says nothing of how a table's terms would count
            open_fields.discard("query_term_counts")
        return type(self).model_validate({**self.model_dump(), **{name: getattr(spec, name) for name in open_fields}})

    def encoding_spec(self) -> EncodingSpec:
        """Return the spec of the model that the run makes, without its fingerprint."""
        fields = self.model_dump(include=set(spec_field_names()))
        fields["query_term_counts"] = self.query_encoder == "inference-free" and self.query_term_counts
        return EncodingSpec(**fields)

    @model_validator(mode="after")
    def _check_combination(self) -> RetrieveConfig:
        if self.representation == "dense" and self.query_encoder == "inference-free":
            raise ValueError("query_encoder: inference-free: a dense query needs the model; set query_encoder: model")
        if self.representation == "dense" and self.lexical_weight:
            raise ValueError("lexical_weight: a dense vector has no terms; leave it out")
        if self.representation == "dense" and (self.calibrated_head or self.head_shift):
            raise ValueError("calibrated_head: a dense vector needs no output layer; leave out, and head_shift, too")
        if self.uses_teacher and self.distillation == "margin-mse" and not self.negatives:
            raise ValueError("negatives: 0: margin-mse compares a positive with a negative; set negatives: 1 or more")
        if not self.uses_contrast and self.distillation == "kl" and not self.negatives:
            raise ValueError("negatives: 0: kl over a positive alone is always 0; set negatives: 1 or more")
        if self.uses_contrast and not self.in_batch_negatives and not self.negatives:
            raise ValueError("negatives: 0: without in_batch_negatives there is nothing to contrast; set one of them")
        budgets = self.training_budgets
        if not budgets or len(set(budgets)) < len(budgets) or any(one is not None and one < 1 for one in budgets):
            raise ValueError(
                "training_top_k: a number of terms, 1 or more, or a list of different ones, null for all terms"
            )
        if self.false_negative_margin is not None and not (self.uses_contrast and self.negatives):
            raise ValueError(
                "false_negative_margin: there are no hard negatives in a contrastive part; set negatives: 1 or more "
                "and an objective with contrastive, or leave it out"
            )
        if self.streaming and not self.trainer.get("max_steps"):
            raise ValueError("trainer: max_steps: needed with streaming: true, for the length of a stream is unknown")
        return self

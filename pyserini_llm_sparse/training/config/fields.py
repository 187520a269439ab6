"""The fields of a training phase's run file, validated; `run_file` reads it.

What belongs to `transformers.TrainingArguments` stands under one key, ``trainer``, in that library's own words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pyserini_llm_sparse.modelling.spec import Attention, EncodingSpec

Phase = Literal["adapt", "retrieve", "mine", "score"]

# Decided by the phase, so a run file may not set them.
RESERVED_TRAINER_ARGUMENTS = frozenset(
    (
        "output_dir", "seed", "data_seed", "remove_unused_columns", "label_names", "do_train", "do_eval",
        "eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
        "group_by_length", "push_to_hub", "resume_from_checkpoint",
    )
)  # fmt: skip
_FIELDS_OF_THE_SPEC = (
    "logit_scale", "add_bos", "add_eos", "query_prefix", "document_prefix", "query_max_length", "document_max_length",
    "pooled_span", "excluded_token_ids", "query_top_k", "document_top_k", "impact_factor", "query_term_counts",
)  # fmt: skip


def _of_spec(name: str) -> str | None:
    """Return what the encoding spec says of one of its fields."""
    return EncodingSpec.model_fields[name].description


class PhaseConfig(BaseModel):
    """The fields of every phase."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    output: Path = Field(description="Where the result goes: the directory of a model, or a file of training examples.")
    seed: int = Field(default=42, description="Seed of everything that is drawn at random.")


class ModelConfig(PhaseConfig):
    """The fields of the two phases that train a model."""

    model: str = Field(
        description="Path or hub id of the causal language model to start from, which may be an adapter or a result "
        "of an earlier run; csplade is the embedded one."
    )
    trust_remote_code: bool = Field(default=False, description="Whether code that comes with the model may run.")
    attention: Attention = Field(default="bidirectional", description=_of_spec("attention"))
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Type of the weights in memory; trainer: {bf16: true} also computes in bf16."
    )
    attention_implementation: str | None = Field(
        default=None, description="sdpa, eager or flash_attention_2; by default transformers' choice."
    )
    lora_rank: int | None = Field(
        default=None, ge=1, description="Rank of a LoRA adapter; without one, all weights are trained."
    )
    lora_alpha: float = Field(default=32, gt=0, description="The adapter is scaled by lora_alpha / lora_rank.")
    lora_dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout before the adapter.")
    lora_targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Names of the modules that get an adapter.",
    )
    train_head: bool | None = Field(
        default=None,
        description="Whether the output embedding is trained; by default only if all weights are. Where it is tied "
        "to the input embedding, both are trained.",
    )
    save: Literal["merged", "adapter"] = Field(
        default="merged", description="merged writes whole weights; adapter writes only the LoRA adapter."
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        description="End the run after this many evaluations without an improvement; by default never.",
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="Arguments of transformers' TrainingArguments.")

    @property
    def trains_head(self) -> bool:
        """Whether the output embedding is trained."""
        return self.lora_rank is None if self.train_head is None else self.train_head

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        reserved = RESERVED_TRAINER_ARGUMENTS & set(self.trainer)
        if reserved:
            raise ValueError(f"trainer: {', '.join(sorted(reserved))}: set by the phase itself; leave out")
        if self.save == "adapter" and self.lora_rank is None:
            raise ValueError("save: adapter: nothing but whole weights is trained; set lora_rank, or save: merged")
        if self.save == "adapter" and self.trains_head:
            raise ValueError("save: adapter: a trained head is no part of an adapter; set save: merged")
        return self


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
        "text is a sequence of its own.",
    )
    mask_probability: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the tokens that masked-next-token masks."
    )
    mask_token: str = Field(
        default="_", description="Token that masks; it must be a single token of the vocabulary."
    )  # not a password
    held_out_texts: int = Field(
        default=0, ge=0, description="Number of sequences kept for evaluation and not trained on."
    )

    @model_validator(mode="after")
    def _check_attention(self) -> AdaptConfig:
        if self.attention == "bidirectional" and self.objective != "masked-next-token":
            raise ValueError(
                f"objective: {self.objective}: a model that sees the next token learns nothing from predicting it; set "
                "attention: causal (retrieve may still be bidirectional), or objective: masked-next-token"
            )
        return self


class RetrieveConfig(ModelConfig):
    """Training of a sparse or dense retriever.

    The fields of the encoding spec (`spec.EncodingSpec`) carry the same names here; they are saved with the model.
    Where they, ``attention`` or ``query_encoder`` are left out, those of the model that training starts from hold.
    """

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
        description="sparse, log1p(relu(max logits)); or dense, pooled and L2-normalised hidden states.",
    )
    dense_pooling: Literal["last-token", "mean"] = Field(
        default="last-token",
        description="Hidden states that make a dense vector: the last token's, or the mean of all.",
    )
    query_encoder: Literal["model", "inference-free"] = Field(default="model", description=_of_spec("query_encoder"))
    query_term_weights: Literal["learned", "fixed"] = Field(
        default="learned",
        description="Whether the table of inference-free queries is learned, or fixed at its start: sqrt(.3 IDF) "
        "over the training documents.",
    )
    query_term_counts: bool = Field(default=True, description=_of_spec("query_term_counts"))
    negatives: int = Field(
        default=0,
        ge=0,
        description="Hard negatives per query in a step; drawn anew in each epoch if an example has more.",
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
        description="Divides the scores before a softmax; by default 1 for sparse and 0.02 for dense vectors.",
    )
    teacher_temperature: float = Field(
        default=1.0, gt=0, description="Divides the teacher's scores before their softmax."
    )
    in_batch_negatives: bool = Field(
        default=True,
        description="Whether documents of the other queries are negatives, including those on other devices.",
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
    regulariser_ramp: float = Field(
        default=1 / 3,
        ge=0,
        le=1,
        description="Share of the optimiser steps over which these weights rise quadratically from 0.",
    )
    training_top_k: int | None = Field(
        default=None, ge=1, description="Keep at most this many terms of a vector while training; by default all."
    )
    training_top_k_kind: Literal["hard", "soft"] = Field(
        default="hard",
        description="hard drops the other terms; soft subtracts the weight of the heaviest one that is dropped.",
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
    dev: Path | None = Field(
        default=None, description="BEIR directory to evaluate on during training, every trainer: {eval_steps: N}."
    )
    dev_split: str = Field(default="dev", description="Split of its relevance judgements.")
    dev_metric: str = Field(
        default="nDCG@10",
        description="Measure, in the notation of ir_measures, that decides on early stopping and the best checkpoint.",
    )
    dev_queries: int | None = Field(
        default=None, ge=1, description="Evaluate on at most this many queries; by default all."
    )

    logit_scale: float = Field(default=1.0, gt=0, description=_of_spec("logit_scale"))
    add_bos: bool = Field(default=True, description=_of_spec("add_bos"))
    add_eos: bool = Field(default=False, description=_of_spec("add_eos"))
    query_prefix: str = Field(default="", description=_of_spec("query_prefix"))
    document_prefix: str = Field(default="", description=_of_spec("document_prefix"))
    query_max_length: int = Field(default=64, ge=1, description=_of_spec("query_max_length"))
    document_max_length: int = Field(default=256, ge=1, description=_of_spec("document_max_length"))
    pooled_span: Literal["all", "text"] = Field(default="all", description=_of_spec("pooled_span"))
    excluded_token_ids: tuple[int, ...] = Field(default=(), description=_of_spec("excluded_token_ids"))
    query_top_k: int | None = Field(default=None, ge=1, description=_of_spec("query_top_k"))
    document_top_k: int | None = Field(default=None, ge=1, description=_of_spec("document_top_k"))
    impact_factor: float = Field(default=100.0, gt=0, description=_of_spec("impact_factor"))

    @property
    def score_temperature(self) -> float:
        """What scores are divided by before a softmax."""
        if self.temperature is not None:
            return self.temperature
        return 0.02 if self.representation == "dense" else 1.0

    @property
    def uses_contrast(self) -> bool:
        """Whether InfoNCE is a part of the loss."""
        return "contrastive" in self.objective

    @property
    def uses_teacher(self) -> bool:
        """Whether the training examples need a teacher's scores."""
        return "distillation" in self.objective

    def continuing(self, spec: EncodingSpec) -> RetrieveConfig:
        """Return the run file with what it leaves open taken from the spec of the model that it starts from.

        Training goes on under the contract that a model has, but for the fields that are given. The prefix that a
        model was trained with, say, is not lost by not being mentioned.
        """
        open_fields = {*_FIELDS_OF_THE_SPEC, "attention", "query_encoder"} - self.model_fields_set
        if self.representation == "dense" or "query_encoder" in self.model_fields_set:
            open_fields -= {"query_encoder", "query_term_counts"}
        return type(self).model_validate({**self.model_dump(), **{name: getattr(spec, name) for name in open_fields}})

    def encoding_spec(self) -> EncodingSpec:
        """Return the spec of the model that the run makes, without its fingerprint."""
        fields = {name: getattr(self, name) for name in _FIELDS_OF_THE_SPEC}
        inference_free = self.query_encoder == "inference-free"
        fields["query_term_counts"] = inference_free and self.query_term_counts
        return EncodingSpec(attention=self.attention, query_encoder=self.query_encoder, **fields)

    @model_validator(mode="after")
    def _check_combination(self) -> RetrieveConfig:
        if self.representation == "dense" and self.query_encoder == "inference-free":
            raise ValueError("query_encoder: inference-free: a dense query needs the model; set query_encoder: model")
        if self.uses_teacher and self.distillation == "margin-mse" and not self.negatives:
            raise ValueError("negatives: 0: margin-mse compares a positive with a negative; set negatives: 1 or more")
        if not self.uses_contrast and self.distillation == "kl" and not self.negatives:
            raise ValueError("negatives: 0: kl over a positive alone is always 0; set negatives: 1 or more")
        if self.uses_contrast and not self.in_batch_negatives and not self.negatives:
            raise ValueError("negatives: 0: without in_batch_negatives there is nothing to contrast; set one of them")
        if self.streaming and not self.trainer.get("max_steps"):
            raise ValueError("trainer: max_steps: needed with streaming: true, for the length of a stream is unknown")
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
    teacher: str = Field(description="Path or hub id of the teacher; for sparse, a name that --encoder takes.")
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


CONFIGS: dict[str, type[PhaseConfig]] = {
    "adapt": AdaptConfig,
    "retrieve": RetrieveConfig,
    "mine": MineConfig,
    "score": ScoreConfig,
}

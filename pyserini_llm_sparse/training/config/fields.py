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


class PhaseConfig(BaseModel):
    """What every phase has.

    Attributes:
        output: Where the result goes: the directory of a model, or a file of training examples.
        seed: Seed of everything that is drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    output: Path
    seed: int = 42


class ModelConfig(PhaseConfig):
    """What the two phases that train a model have.

    Attributes:
        model: Path or hub id of the causal language model to start from, an adapter or a result of ours included;
            ``csplade`` is the embedded one.
        trust_remote_code: Whether code that comes with the model may run.
        attention: Attention variant, as in the encoding spec.
        dtype: Type of the weights in memory; ``trainer: {bf16: true}`` computes in bf16 besides.
        attention_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; by default transformers' choice.
        lora_rank: Rank of a LoRA adapter; None trains all weights.
        lora_alpha: Its scale is ``lora_alpha / lora_rank``.
        lora_dropout: Dropout in front of the adapter.
        lora_targets: Names of the modules that get one.
        train_head: Whether the output embedding is trained; by default in full training only. Where it is tied to the
            input embedding, that one is trained with it.
        save: ``merged`` writes whole weights, ``adapter`` only the adapter (with LoRA).
        early_stopping_patience: Evaluations without a better one after which the run ends; None never ends it.
        trainer: Arguments of `transformers.TrainingArguments`.
    """

    model: str
    trust_remote_code: bool = False
    attention: Attention = "bidirectional"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention_implementation: str | None = None
    lora_rank: int | None = Field(default=None, ge=1)
    lora_alpha: float = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.1, ge=0, lt=1)
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    train_head: bool | None = None
    save: Literal["merged", "adapter"] = "merged"
    early_stopping_patience: int | None = Field(default=None, ge=1)
    trainer: dict[str, Any] = Field(default_factory=dict)

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
    """Adaptation of a language model, before it learns to retrieve.

    Attributes:
        texts: Files or directories of texts (JSON lines, TSV, BEIR, ``irds:ID``, ``hf:DATASET``); see
            `training.data.sources.read_texts`.
        objective: ``next-token``; ``sparse-next-token``, the same plus the cross-entropy of ``log1p(relu(logits))``
            (CSPLADE, section 3.1); ``masked-next-token``, the token before a masked one predicts it (MNTP, as in
            2502.15526, section 3.1).
        sparse_weight: Weight of the second part of ``sparse-next-token``.
        sequence_length: Tokens of a sequence; texts are packed until it is full, but for ``masked-next-token``, where
            each text is a sequence.
        mask_probability: Share of tokens masked by ``masked-next-token``.
        mask_token: Token that masks; must be one token of the vocabulary.
        held_out_texts: Number of sequences kept for evaluation, not trained on; 0 for none.
    """

    texts: tuple[str, ...] = Field(min_length=1)
    objective: Literal["next-token", "sparse-next-token", "masked-next-token"] = "sparse-next-token"
    sparse_weight: float = Field(default=1.0, ge=0)
    sequence_length: int = Field(default=512, ge=8)
    mask_probability: float = Field(default=0.2, gt=0, lt=1)
    mask_token: str = "_"  # not a password
    held_out_texts: int = Field(default=0, ge=0)

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

    Attributes:
        train: Files, directories or ``hf:DATASET`` of training examples; see `training.data.sources.read_examples`.
        streaming: Whether the examples are read while training goes on, rather than held in memory; needs
            ``trainer: {max_steps: N}``.
        representation: ``sparse`` (log1p(relu(max logits))) or ``dense`` (pooled, L2-normalised hidden states).
        dense_pooling: ``last-token`` or ``mean``.
        query_encoder: ``model``, or ``inference-free``: a query is its terms, weighted from a table (sparse only).
        query_term_weights: ``learned``, or ``fixed`` at where the table starts: ``sqrt(.3 IDF)`` over the training
            documents.
        negatives: Hard negatives of each query in a step; drawn anew in each epoch where an example has more.
        objective: ``contrastive``, ``distillation``, or ``contrastive+distillation``.
        contrastive_weight: Weight of the InfoNCE part.
        distillation_weight: Weight of the distillation part.
        distillation: ``margin-mse`` (Hofstätter et al., 2020) or ``kl`` (KL divergence from the teacher's softmax).
        temperature: Scores are divided by it before a softmax; by default 1 for sparse, 0.02 for dense.
        teacher_temperature: The teacher's scores are divided by it before their softmax.
        in_batch_negatives: Whether documents of the other queries are negatives, those on other devices included.
        regulariser: ``flops`` (Paria et al., 2020), ``l1``, or ``df-flops``, where a term's share in FLOPs grows with
            the number of documents that have it.
        query_regulariser_weight: Its weight for queries.
        document_regulariser_weight: Its weight for documents.
        regulariser_ramp: Share of the optimiser steps in which these weights rise quadratically from 0.
        training_top_k: Terms kept of a vector while training; None keeps all.
        training_top_k_kind: ``hard`` drops the others; ``soft`` subtracts the weight of the first that is dropped.
        gradient_cache_size: Texts that go through the model at a time with gradient caching (Gao et al., 2021), which
            leaves the contrastive batch to patience and not to memory; None sends the whole batch through at once.
        stop_on_collapse: Whether a run ends when its vectors die or become all alike.
        dev: BEIR directory that the model is evaluated on while it trains, every ``trainer: {eval_steps: N}``.
        dev_split: Its qrels.
        dev_metric: Measure, in the notation of ir_measures, that early stopping and the best checkpoint go by.
        dev_queries: Most queries of it; None for all.
    """

    train: tuple[str, ...] = Field(min_length=1)
    streaming: bool = False
    representation: Literal["sparse", "dense"] = "sparse"
    dense_pooling: Literal["last-token", "mean"] = "last-token"
    query_encoder: Literal["model", "inference-free"] = "model"
    query_term_weights: Literal["learned", "fixed"] = "learned"
    query_term_counts: bool = True
    negatives: int = Field(default=0, ge=0)
    objective: Literal["contrastive", "distillation", "contrastive+distillation"] = "contrastive"
    contrastive_weight: float = Field(default=1.0, gt=0)
    distillation_weight: float = Field(default=1.0, gt=0)
    distillation: Literal["margin-mse", "kl"] = "kl"
    temperature: float | None = Field(default=None, gt=0)
    teacher_temperature: float = Field(default=1.0, gt=0)
    in_batch_negatives: bool = True
    regulariser: Literal["flops", "l1", "df-flops"] = "flops"
    query_regulariser_weight: float = Field(default=0.0, ge=0)
    document_regulariser_weight: float = Field(default=0.0, ge=0)
    regulariser_ramp: float = Field(default=1 / 3, ge=0, le=1)
    training_top_k: int | None = Field(default=None, ge=1)
    training_top_k_kind: Literal["hard", "soft"] = "hard"
    gradient_cache_size: int | None = Field(default=None, ge=1)
    stop_on_collapse: bool = True
    dev: Path | None = None
    dev_split: str = "dev"
    dev_metric: str = "nDCG@10"
    dev_queries: int | None = Field(default=None, ge=1)

    logit_scale: float = Field(default=1.0, gt=0)
    add_bos: bool = True
    add_eos: bool = False
    query_prefix: str = ""
    document_prefix: str = ""
    query_max_length: int = Field(default=64, ge=1)
    document_max_length: int = Field(default=256, ge=1)
    pooled_span: Literal["all", "text"] = "all"
    excluded_token_ids: tuple[int, ...] = ()
    query_top_k: int | None = Field(default=None, ge=1)
    document_top_k: int | None = Field(default=None, ge=1)
    impact_factor: float = Field(default=100.0, gt=0)

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
    """Hard negatives: for each query, documents that a retriever ranks high and nobody judged relevant.

    Attributes:
        train: Training examples whose queries are used; their positives are never taken as negatives.
        corpus: BEIR directory, file or directory of documents that are searched; by default the examples' positives.
        encoder: ``bm25``, or a name that ``--encoder`` takes.
        hits: Depth of the search.
        first_rank: Highest rank (from 1) that a negative is taken from; raise it where judgements are incomplete.
        negatives: Negatives of each query, drawn from what is left.
        least_margin: A negative must score at most ``(1 - least_margin)`` times the best positive's score; None
            takes all (positive-aware mining, 2407.15831).
        threads: Threads of the search.
    """

    train: tuple[str, ...] = Field(min_length=1)
    corpus: str | None = None
    encoder: str = "bm25"
    hits: int = Field(default=100, ge=1)
    first_rank: int = Field(default=1, ge=1)
    negatives: int = Field(default=15, ge=1)
    least_margin: float | None = Field(default=None, ge=0, lt=1)
    threads: int = Field(default=1, ge=1)


class ScoreConfig(PhaseConfig):
    """Scores of a teacher for each query with its positives and negatives.

    Attributes:
        train: Training examples, with negatives or not.
        teacher: Path or hub id of the teacher; for ``sparse``, a name that ``--encoder`` takes.
        kind: ``cross-encoder``, ``sentence-transformers`` (cosine or dot, as the model says) or ``sparse``.
        scale: Factor on the scores (a cosine is usually scaled by 20).
        batch_size: Texts or pairs that go through the teacher at a time.
        max_length: Most tokens of a text or pair; None for the teacher's own limit.
        trust_remote_code: Whether code that comes with the teacher may run.
    """

    train: tuple[str, ...] = Field(min_length=1)
    teacher: str
    kind: Literal["cross-encoder", "sentence-transformers", "sparse"] = "cross-encoder"
    scale: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=64, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    trust_remote_code: bool = False


CONFIGS: dict[str, type[PhaseConfig]] = {
    "adapt": AdaptConfig,
    "retrieve": RetrieveConfig,
    "mine": MineConfig,
    "score": ScoreConfig,
}

"""The fields that the run files of several phases share.

What belongs to `transformers.TrainingArguments` stands under one key, ``trainer``, in that library's own words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pyserini_llm_sparse.modelling.spec import Attention, EncodingSpec

# Decided by the phase, so a run file may not set them.
RESERVED_TRAINER_ARGUMENTS = frozenset(
    (
        "output_dir", "seed", "data_seed", "remove_unused_columns", "label_names", "do_train", "do_eval",
        "eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
        "group_by_length", "push_to_hub", "resume_from_checkpoint", "save_only_model",
    )
)  # fmt: skip

# Which would do something else than they say, or nothing, and why.
REFUSED_TRAINER_ARGUMENTS = {
    "neftune_noise_alpha": "noise on the embeddings would differ between the two passes of a text",
    "use_liger_kernel": "its kernels are for losses that no phase computes",
    "auto_find_batch_size": "the batch decides what a query is compared with",
}


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
    attention: Attention = Field(
        default="bidirectional", description=EncodingSpec.model_fields["attention"].description
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Type of the weights in memory; trainer: {bf16: true} also computes in bf16."
    )
    head_shift: Path | None = Field(
        default=None,
        description="Directory that `train calibrate` wrote, to take the vector of a calibrated head from, which is "
        "trained on; by default the model's own, if it has one.",
    )
    attention_implementation: str | None = Field(
        default=None, description="sdpa, eager or flash_attention_2; by default transformers' choice."
    )
    lora: Literal["new", "continue"] = Field(
        default="new",
        description="new: an adapter is merged before training, and a new one begun if lora_rank says so; continue: "
        "the adapter that model is goes on being trained itself, with its own rank, alpha and targets.",
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
    stop_after_steps: int | None = Field(
        default=None,
        ge=1,
        description="End the run after this many optimiser steps, though its schedule is made for more; by default it "
        "runs to the schedule's end.",
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        description="End the run after this many evaluations without an improvement; by default never.",
    )
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="Type of the weights in the result; by default as in the model that training starts from, or "
        "dtype if that is smaller.",
    )
    start_is_candidate: bool = Field(
        default=True,
        description="Whether the model that training starts from is the result if no checkpoint measures better.",
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="Arguments of transformers' TrainingArguments.")

    @property
    def uses_lora(self) -> bool:
        """Whether an adapter is trained rather than all weights."""
        return self.lora_rank is not None or self.lora == "continue"

    @property
    def trains_head(self) -> bool:
        """Whether the output embedding is trained."""
        return not self.uses_lora if self.train_head is None else self.train_head

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        reserved = RESERVED_TRAINER_ARGUMENTS & set(self.trainer)
        if reserved:
            raise ValueError(f"trainer: {', '.join(sorted(reserved))}: set by the phase itself; leave out")
        own = [
            name
            for name in ("lora_rank", "lora_alpha", "lora_targets")
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.lora == "continue" and own:
            raise ValueError(f"{own[0]}: the adapter that is trained on has its own; leave out, or set lora: new")
        for name in REFUSED_TRAINER_ARGUMENTS.keys() & self.trainer.keys():
            if self.trainer[name]:
                raise ValueError(f"trainer: {name}: {REFUSED_TRAINER_ARGUMENTS[name]}; leave out")
        if self.trainer.get("train_sampling_strategy") == "group_by_length":
            raise ValueError(
                "trainer: train_sampling_strategy: group_by_length: texts of one length would meet in each step, and "
                "equal ones with them; leave out"
            )
        if self.save == "adapter" and not self.uses_lora:
            raise ValueError("save: adapter: nothing but whole weights is trained; set lora_rank, or save: merged")
        if self.save == "adapter" and self.trains_head:
            raise ValueError("save: adapter: a trained head is no part of an adapter; set save: merged")
        return self

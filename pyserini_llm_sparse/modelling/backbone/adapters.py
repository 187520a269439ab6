"""A peft adapter: merged into the model that it was trained on, or put in to be trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError, UsageError, one_line
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone


def merge_adapter(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """Merge a peft adapter into its base.

    Args:
        model: The base, which is changed.
        path: The adapter's directory.

    Raises:
        PrerequisiteError: peft is not installed.
        ResourceError: A file is missing.
        DataError: The adapter is that of another base.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise PrerequisiteError(f"{path}: an adapter: peft is not installed; pip install peft") from error
    from safetensors import safe_open

    try:
        with warnings.catch_warnings():
            # peft asks transformers for attributes that were renamed, and warns of what is checked below
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, str(path), use_safetensors=True)
        with safe_open(path / "adapter_model.safetensors", framework="pt") as file:
            stored = set(file.keys())
    except OSError as error:
        raise ResourceError(f"{path}: cannot load the adapter: {one_line(error)}; check the directory") from error
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: the adapter does not fit its base: {one_line(error)}; name the right one: "
            "csplade:ADAPTER,base=PATH_OR_HUB_ID"
        ) from error
    differing = stored ^ set(get_peft_model_state_dict(adapted))
    if differing:
        raise DataError(
            f"{path}: the adapter does not fit its base: {len(differing)} weights are on one side only "
            f"({', '.join(sorted(differing)[:3])}); name the right one: csplade:ADAPTER,base=PATH_OR_HUB_ID"
        )
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def with_adapter(
    backbone: Backbone, *, rank: int, alpha: float, dropout: float, targets: Sequence[str], trains_head: bool
) -> Backbone:
    """Put a new LoRA adapter into a backbone: it alone is trained, and the head if that is wanted.

    Raises:
        PrerequisiteError: peft is not installed.
        UsageError: The model has no module of these names.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise PrerequisiteError("lora_rank: peft is not installed; pip install peft") from error
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # need not be whole
        lora_dropout=dropout,
        target_modules=list(targets),
        task_type=None if backbone.is_masked else TaskType.CAUSAL_LM,
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for attributes that were renamed
            warnings.simplefilter("ignore", FutureWarning)
            adapted: Any = get_peft_model(backbone.model, settings)
    except ValueError as error:
        raise UsageError(f"lora_targets: {one_line(error)}; name modules of the model") from error
    result = Backbone(adapted, backbone.attention)
    if trains_head:
        result.model.get_output_embeddings().requires_grad_(True)
    return result

"""A peft adapter, merged into the model that it was trained on."""

from __future__ import annotations

import warnings
from pathlib import Path

from transformers import PreTrainedModel

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError, one_line


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
        raise DataError(f"{path}: the adapter does not fit its base: {one_line(error)}; name the right one: "
                        "csplade:ADAPTER,base=PATH_OR_HUB_ID") from error  # fmt: skip
    differing = stored ^ set(get_peft_model_state_dict(adapted))
    if differing:
        raise DataError(
            f"{path}: the adapter does not fit its base: {len(differing)} weights are on one side only "
            f"({', '.join(sorted(differing)[:3])}); name the right one: csplade:ADAPTER,base=PATH_OR_HUB_ID"
        )
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged

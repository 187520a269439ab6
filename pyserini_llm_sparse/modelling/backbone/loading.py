"""A backbone from a model's directory, for encoding or for training."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError, one_line, require_version
from pyserini_llm_sparse.modelling.backbone.adapters import merge_adapter
from pyserini_llm_sparse.modelling.backbone.devices import DTYPES, resolve_device, resolve_dtype
from pyserini_llm_sparse.modelling.backbone.language_model import OTHER_FAMILIES, Backbone, quiet, set_attention
from pyserini_llm_sparse.modelling.backbone.older_transformers import read_rope_parameters
from pyserini_llm_sparse.modelling.backbone.probing import probe
from pyserini_llm_sparse.modelling.folder import is_masked
from pyserini_llm_sparse.modelling.spec import Attention

LEAST_TRANSFORMERS = (4, 57)
LEAST_TRANSFORMERS_TO_TRAIN = (5, 2)

_logger = logging.getLogger(__name__)


def load_backbone(
    path: str | Path,
    *,
    attention: Attention,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    base: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a causal or masked language model from a directory, merging an adapter into its base.

    Args:
        path: Directory of a model, or of a peft adapter.
        attention: The attention variant of the encoding spec.
        dtype: See `resolve_dtype`.
        device: See `resolve_device`.
        base: Directory of the model that the adapter belongs to; required if `path` is an adapter.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        PrerequisiteError: transformers is too old, or an adapter is given and peft is not installed.
        UsageError: An adapter is given without its base.
        DataError: The weights are incomplete or do not fit the configuration, or the family cannot be used.
        ResourceError: A file is missing, or the model does not fit into the device's memory.
        RunError: The attention mode did not take effect.
    """
    require_transformers()
    place, precision = resolve_device(device), DTYPES[resolve_dtype(dtype, device)]
    if base is None and (Path(path) / "adapter_config.json").is_file():
        raise UsageError(f"{path}: an adapter: its base model is not given; name its directory as base")
    model = _load_model(Path(base or path), attention, precision, trust_remote_code)
    if base is not None:
        model = merge_adapter(model, Path(path))
    try:
        model.to(place)  # type: ignore[arg-type]  # transformers wraps the method and hides its signature
        backbone = Backbone(model.eval().requires_grad_(False), attention)
        probe(backbone)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{path}: does not fit into the memory of {place} in {precision}; use another device, or dtype bfloat16"
        ) from error
    except (TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: {type(model).__name__} does not work with the position ids and attention mask that it is given: "
            f"{one_line(error)}; {_remedy(error)}"
        ) from error
    return backbone


def load_trainable_backbone(
    path: str | Path,
    *,
    attention: Attention,
    dtype: str = "float32",
    base: str | Path | None = None,
    trust_remote_code: bool = False,
    attention_implementation: str | None = None,
) -> Backbone:
    """Load a causal or masked language model for training: on the CPU, all weights trainable.

    Args:
        path: Directory of a model, or of a peft adapter, which is merged.
        attention: The attention variant of the encoding spec.
        dtype: Type of the weights.
        base: Directory of the model that the adapter belongs to.
        trust_remote_code: Whether code that comes with the model may run.
        attention_implementation: One of transformers' names; by default its choice.

    Raises:
        LlmSparseError: As `load_backbone` says.
    """
    require_transformers(LEAST_TRANSFORMERS_TO_TRAIN, "training")
    options = (Path(base or path), attention, DTYPES[dtype], trust_remote_code, attention_implementation)
    # An adapter may change shapes, which are known only when it has been merged.
    model = _outline(*options) if base is None and _is_given_its_shards() else _load_model(*options)
    if base is not None:
        model = merge_adapter(model, Path(path))
    backbone = Backbone(model.eval(), attention)
    if _is_whole(model) and not str(attention_implementation).startswith("flash"):  # flash attention needs a GPU
        probe(backbone)
    model.requires_grad_(True)
    return backbone


def _is_given_its_shards() -> bool:
    """Tell whether another process of this machine loads the weights, for FSDP, and gives each its shards."""
    asked = [os.environ.get(name, "") for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")]
    return all(one.lower() in ("1", "true") for one in asked) and os.environ.get("LOCAL_RANK", "0") != "0"


def _is_whole(model: PreTrainedModel) -> bool:
    """Tell whether this process holds the weights: FSDP and ZeRO-3 may load them elsewhere, or in parts."""
    if _is_given_its_shards():
        return False
    return all(parameter.numel() and not parameter.is_meta for parameter in model.parameters())


def require_transformers(least: tuple[int, int] = LEAST_TRANSFORMERS, need: str = "encoding") -> None:
    """Refuse a transformers that is too old for what is needed of it.

    Raises:
        PrerequisiteError: It is older than `least`.
    """
    require_version("transformers", transformers.__version__, least, need)


def _outline(
    path: Path, attention: Attention, dtype: torch.dtype, trust_remote_code: bool, attention_implementation: str | None
) -> PreTrainedModel:
    """Return the model of a directory with weights that were never written to, and so take no memory."""
    from accelerate import init_empty_weights

    config, family = _config_and_family(path, attention, trust_remote_code)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = family.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code, attn_implementation=attention_implementation
        )
    model._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)
    model.tie_weights()
    set_attention(model, attention)
    return model


def _config_and_family(path: Path, attention: Attention, trust_remote_code: bool) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    config.is_causal = attention != "bidirectional"
    read_rope_parameters(config)
    return config, AutoModelForMaskedLM if is_masked(config.to_dict()) else AutoModelForCausalLM


def _load_model(
    path: Path,
    attention: Attention,
    dtype: torch.dtype,
    trust_remote_code: bool,
    attention_implementation: str | None = None,
) -> PreTrainedModel:
    """Load the model of a directory, all of its weights or none."""
    try:
        config, family = _config_and_family(path, attention, trust_remote_code)
        with quiet():
            pair: Any = family.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                attn_implementation=attention_implementation,
                output_loading_info=True,
            )
            model: PreTrainedModel = pair[0]
            loaded: dict[str, Any] = pair[1]
    except SafetensorError as error:
        raise DataError(
            f"{path}: a safetensors file is damaged: {one_line(error)}; download or copy it again"
        ) from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot load the model: {one_line(error)}; check the directory") from error
    except (ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise DataError(f"{path}: cannot load the model: {one_line(error)}; {_remedy(error)}") from error
    for problem, names in (("lacks", loaded["missing_keys"]), ("has another shape of", loaded["mismatched_keys"])):
        if names:
            listed = ", ".join(sorted(str(name) for name in names)[:3])
            raise DataError(
                f"{path}: the checkpoint {problem} {len(names)} of the model's weights ({listed}): they would be random"
                "; save the language model together with its output layer"
            )
    if loaded["unexpected_keys"]:
        left_out = len(loaded["unexpected_keys"])
        _logger.warning("%s: %d weights are not part of the model and are left out", path, left_out)
    set_attention(model, attention)
    return model


def _remedy(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "if you trust the code that comes with it, say so by name: csplade:MODEL,trust_remote_code=true"
    return f"{OTHER_FAMILIES}, complete and in safetensors"

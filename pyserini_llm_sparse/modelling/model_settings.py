"""The settings of a model that its vectors depend on, in one form however its configuration was written down."""

from __future__ import annotations

from typing import Any

# Of no consequence for vectors, or said by the weights, the tokenizer or the encoding spec.
_IDLE = {
    "architectures", "auto_map", "auto_mapping", "base_model_class", "base_model_name_or_path", "bos_token_id",
    "cls_token_id", "corda_config", "dtype", "eos_token_id", "eva_config", "gradient_checkpointing", "id2label",
    "inference_mode", "init_lora_weights", "init_weights", "initializer_factor", "initializer_range", "is_causal",
    "keys_to_ignore_at_inference", "label2id", "layer_norm_init", "lora_dropout", "loss_type",
    "max_position_embeddings", "model_max_length", "num_labels", "output_attentions", "output_hidden_states",
    "pad_token_id", "parent_library", "peft_version", "pretraining_tp", "problem_type", "return_dict", "revision",
    "runtime_config", "sep_token_id", "task_specific_params", "task_type", "tokenizer_class", "torch_dtype",
    "transformers_version", "unk_token_id", "use_cache", "vocab_size",
}  # fmt: skip
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
_LENGTH_DEPENDENT = ("dynamic", "longrope", "yarn")  # rotary positions that depend on max_position_embeddings
_DEFAULT_THETA = 10000.0


def model_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a ``config.json`` or ``adapter_config.json`` that vectors depend on.

    Names that are of no consequence are left out, and so is what says nothing (none, no, zero, an empty list), so that
    a library that writes down more of its defaults says the same; rotary positions have one form for the two in which
    transformers has written them.
    """
    settings = {
        name: sorted(map(str, value)) if name == "target_modules" and isinstance(value, list) else value
        for name, value in config.items()
        if name not in _IDLE and name not in _ROPE and not name.startswith("_") and "dropout" not in name and value
    }
    heads, size = config.get("num_attention_heads"), config.get("hidden_size")
    if settings.get("num_key_value_heads") == heads:
        settings.pop("num_key_value_heads", None)
    if isinstance(heads, int) and isinstance(size, int) and heads and settings.get("head_dim") == size // heads:
        del settings["head_dim"]
    layers = settings.get("layer_types")
    if isinstance(layers, list) and all(layer == "full_attention" for layer in layers):
        del settings["layer_types"]
    rope = _rope(config)
    if rope:
        settings["rope"] = rope
        if rope.get("rope_type") in _LENGTH_DEPENDENT:
            settings["max_position_embeddings"] = config.get("max_position_embeddings")
    if isinstance(config.get("text_config"), dict):
        settings["text_config"] = model_settings(config["text_config"])
    return settings


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary positions, without those that are defaults."""
    rope: dict[str, Any] = {"rope_theta": config.get("rope_theta")}
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(config.get(name), dict):
            rope.update(config[name])
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None)
    return {
        name: value
        for name, value in rope.items()
        if value and (name, value) not in (("rope_type", "default"), ("rope_theta", _DEFAULT_THETA))
    }

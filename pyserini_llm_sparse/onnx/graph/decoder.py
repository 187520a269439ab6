"""The weights of a Llama-like decoder, each under one name, read from the torch model that was loaded and merged.

With `backbone` alone in knowing how transformers names the parts of a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
from pyserini_llm_sparse.modelling.spec import EncodingSpec

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
HEAD_SIZE_UNIT = 8  # ONNX Runtime's attention takes heads of a multiple of this
ROOM_FOR_LONGER_TEXTS = 8192  # positions that an export has where the model has them, whatever its spec says


class Linear(NamedTuple):
    """A linear layer: weight ``[out, in]`` and bias ``[out]`` or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Layer:
    """One layer of the decoder.

    Attributes:
        input_norm: Weight ``[hidden]`` of the RMS norm before attention.
        query: The projection to queries.
        key: To keys.
        value: To values.
        query_norm: Weight ``[head size]`` of the RMS norm of each query head (Qwen3), or None.
        key_norm: The same of each key head.
        attention_output: The projection of what attention returns.
        feed_forward_norm: Weight ``[hidden]`` of the RMS norm before the feed-forward network.
        gate: The first projection of that network, whose activation multiplies the second.
        up: Its second projection.
        down: Its last projection.
    """

    input_norm: Tensor
    query: Linear
    key: Linear
    value: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    attention_output: Linear
    feed_forward_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True)
class Decoder:
    """A decoder without its key-value cache.

    Attributes:
        embedding: ``[vocabulary, hidden]``.
        head: The output embedding, ``[vocabulary, hidden]``; the same memory where the two are tied.
        head_bias: The output layer's bias ``[vocabulary]``, or None.
        final_norm: Weight ``[hidden]`` of the RMS norm after the last layer.
        epsilon: What the RMS norms add to the mean square.
        heads: Number of query heads.
        key_value_heads: Number of key heads and of value heads.
        head_size: Width of each.
        attention_scale: Factor on the products of queries and keys.
        cosines: Of the rotary positions, ``[positions, head size / 2]``, scaling included.
        sines: The same.
        causal: Whether a position sees only itself and earlier ones.
    """

    embedding: Tensor
    head: Tensor
    head_bias: Tensor | None
    final_norm: Tensor
    epsilon: float
    heads: int
    key_value_heads: int
    head_size: int
    attention_scale: float
    cosines: Tensor
    sines: Tensor
    causal: bool
    _layers: Any

    @property
    def positions(self) -> int:
        """Maximum number of tokens of a text."""
        return int(self.cosines.shape[0])

    def layers(self) -> Iterator[Layer]:
        """Yield the layers."""
        for layer in self._layers:
            attention, network = layer.self_attn, layer.mlp
            yield Layer(
                input_norm=layer.input_layernorm.weight,
                query=_linear(attention.q_proj),
                key=_linear(attention.k_proj),
                value=_linear(attention.v_proj),
                query_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
                key_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
                attention_output=_linear(attention.o_proj),
                feed_forward_norm=layer.post_attention_layernorm.weight,
                gate=_linear(network.gate_proj),
                up=_linear(network.up_proj),
                down=_linear(network.down_proj),
            )

    def inputs_of_products(self) -> Iterator[dict[str, torch.nn.Module]]:
        """Yield of each layer a module that takes what its products take, by what that is."""
        for layer in self._layers:
            yield {
                "attention_input": layer.self_attn.q_proj,
                "attended": layer.self_attn.o_proj,
                "feed_forward_input": layer.mlp.gate_proj,
                "activated": layer.mlp.down_proj,
            }


@torch.no_grad()
def read_decoder(backbone: Backbone, spec: EncodingSpec) -> Decoder:
    """Read the parts of a model of one of `FAMILIES`.

    Args:
        backbone: The model, in float32 on the CPU.
        spec: Says how long texts are.

    Raises:
        DataError: The graph cannot express the model.
    """
    model: Any = backbone.model
    config, body = model.config, model.base_model
    _require_known_shape(backbone, config)
    attention = body.layers[0].self_attn
    positions = _positions(backbone, spec)
    cosines, sines = body.rotary_emb(body.embed_tokens.weight[:1], torch.arange(positions)[None])
    if cosines.shape[-1] != attention.head_dim:
        raise _unsupported(config, f"positions rotate {cosines.shape[-1]} of {attention.head_dim} numbers of a head")
    half = attention.head_dim // 2  # the second half of the table repeats the first
    return Decoder(
        embedding=body.embed_tokens.weight,
        head=backbone.head_weight,
        head_bias=backbone.head_bias,
        final_norm=body.norm.weight,
        epsilon=float(config.rms_norm_eps),
        heads=int(config.num_attention_heads),
        key_value_heads=int(config.num_key_value_heads),
        head_size=int(attention.head_dim),
        attention_scale=float(attention.scaling),
        cosines=cosines[0, :, :half].contiguous(),
        sines=sines[0, :, :half].contiguous(),
        causal=backbone.attention != "bidirectional",
        _layers=body.layers,
    )


def _require_known_shape(backbone: Backbone, config: Any) -> None:
    if config.model_type not in FAMILIES:
        raise _unsupported(config, f"the graph is written for {', '.join(FAMILIES)}")
    if config.hidden_act not in ("silu", "swish"):
        raise _unsupported(config, f"its activation is {config.hidden_act}, not silu")
    if rope := rotation_by_length(backbone):
        raise _unsupported(config, f"its rotary positions ({rope}) depend on the length of a text")
    body: Any = backbone.model.base_model
    head_size = body.layers[0].self_attn.head_dim
    if head_size % HEAD_SIZE_UNIT:
        raise _unsupported(config, f"ONNX Runtime's attention takes no heads of {head_size} numbers")


def rotation_by_length(backbone: Backbone) -> str | None:
    """Return the name of rotary positions that depend on the length of a text; None if the model's do not."""
    config: Any = backbone.model.config
    # The second name is transformers 4's.
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = parameters.get("rope_type", "default")
    return str(kind) if kind in ("dynamic", "longrope") else None


def longest_text(spec: EncodingSpec) -> int:
    """Return the maximum number of tokens of a text under a spec, for echo both copies included."""
    return max(spec.query_max_length, spec.document_max_length) * (2 if spec.attention == "echo" else 1)


def most_positions(backbone: Backbone, spec: EncodingSpec) -> int:
    """Return how many positions an export should have: those of the spec's texts, and the model's within reason."""
    longest = longest_text(spec)
    return max(longest, min(int(backbone.positions or longest), ROOM_FOR_LONGER_TEXTS))


def _positions(backbone: Backbone, spec: EncodingSpec) -> int:
    """Return for how many positions there is a rotation.

    Where a model attends to a window, texts end with the window, within which it attends to all.
    """
    config: Any = backbone.model.config
    longest, positions = longest_text(spec), most_positions(backbone, spec)
    window = getattr(config, "sliding_window", None)
    if window is None:
        return positions
    if longest > window:
        raise _unsupported(config, f"texts have up to {longest} tokens, and its attention sees a window of {window}")
    return min(positions, int(window))


def _linear(layer: Any) -> Linear:
    return Linear(layer.weight, layer.bias)


def _unsupported(config: Any, why: str) -> DataError:
    return DataError(
        f"{config.model_type}: the fused graph cannot express it: {why}; export with --builder torch, or encode with "
        "the torch model"
    )

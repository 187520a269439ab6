"""Divides the difficulty of products in int8 between activations and weights (SmoothQuant, Xiao et al., 2023).

A few channels of the activations are many times larger than the others, to which their scale leaves few of the 255
values. A factor for each channel makes activations smaller there and weights larger. It costs nothing when the graph
runs: what makes the activations takes it in, a norm before the first projections, the value projection before the one
behind attention, the second projection of the feed-forward network before its last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyserini_llm_sparse.onnx.graph.calibration import balance
from pyserini_llm_sparse.onnx.graph.decoder import Decoder, Layer, Linear


@dataclass(frozen=True)
class LayerFactors:
    """What the activations of one layer are multiplied by, and the weights behind them divided by.

    Attributes:
        attention_input: ``[hidden]``.
        values: ``[key-value heads * head size]``.
        feed_forward_input: ``[hidden]``.
        activated: ``[feed-forward]``.
    """

    attention_input: Tensor
    values: Tensor
    feed_forward_input: Tensor
    activated: Tensor


@contextmanager
def largest_inputs(decoder: Decoder) -> Iterator[list[dict[str, Tensor]]]:
    """Watch a model while it computes.

    Args:
        decoder: The model's parts.

    Yields:
        For each layer the largest magnitude of each channel that went into its products so far, by what that is.
    """
    seen: list[dict[str, Tensor]] = []
    handles = []
    for modules in decoder.inputs_of_products():
        seen.append({})
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(_Remember(seen[-1], name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def smoothing_factors(decoder: Decoder, largest: list[dict[str, Tensor]]) -> list[LayerFactors]:
    """Choose the factors of each layer.

    Args:
        decoder: The model's parts.
        largest: What `largest_inputs` saw.
    """
    return [_factors(layer, seen, decoder) for layer, seen in zip(decoder.layers(), largest, strict=True)]


def smoothed(layer: Layer, factors: LayerFactors, decoder: Decoder) -> Layer:
    """Return a layer that computes the same, with its activations and weights balanced."""
    attended = _for_query_heads(factors.values, decoder)
    return replace(
        layer,
        input_norm=layer.input_norm * factors.attention_input,
        query=_scaled(layer.query, None, factors.attention_input),
        key=_scaled(layer.key, None, factors.attention_input),
        value=_scaled(layer.value, factors.values, factors.attention_input),
        attention_output=_scaled(layer.attention_output, None, attended),
        feed_forward_norm=layer.feed_forward_norm * factors.feed_forward_input,
        gate=_scaled(layer.gate, None, factors.feed_forward_input),
        up=_scaled(layer.up, factors.activated, factors.feed_forward_input),
        down=_scaled(layer.down, None, factors.activated),
    )


class _Remember:
    """A hook that keeps the largest magnitude of each channel that goes into a module."""

    def __init__(self, largest: dict[str, Tensor], name: str) -> None:
        self._largest = largest
        self._name = name

    def __call__(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = inputs[0].flatten(0, -2).abs().amax(0)
        before = self._largest.get(self._name)
        self._largest[self._name] = found if before is None else torch.maximum(before, found)


def _factors(layer: Layer, largest: dict[str, Tensor], decoder: Decoder) -> LayerFactors:
    return LayerFactors(
        attention_input=balance(largest["attention_input"], _largest_weights(layer.query, layer.key, layer.value)),
        values=balance(
            _for_value_heads(largest["attended"], decoder),
            _for_value_heads(_largest_weights(layer.attention_output), decoder),
        ),
        feed_forward_input=balance(largest["feed_forward_input"], _largest_weights(layer.gate, layer.up)),
        activated=balance(largest["activated"], _largest_weights(layer.down)),
    )


def _largest_weights(*layers: Linear) -> Tensor:
    """Return the largest magnitude of each input's weights in linear layers that share their inputs, ``[in]``."""
    return torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0)


def _for_value_heads(channels: Tensor, decoder: Decoder) -> Tensor:
    """Return the largest of ``[heads * head size]`` over the query heads that share a value head."""
    return channels.view(decoder.key_value_heads, -1, decoder.head_size).amax(1).flatten()


def _for_query_heads(channels: Tensor, decoder: Decoder) -> Tensor:
    """Return channels of the value heads ``[key-value heads * head size]`` for each query head."""
    shared = decoder.heads // decoder.key_value_heads
    return channels.view(decoder.key_value_heads, 1, -1).expand(-1, shared, -1).flatten()


def _scaled(linear: Linear, outputs: Tensor | None, inputs: Tensor) -> Linear:
    """Return a linear layer with its outputs multiplied and its inputs divided."""
    weight = linear.weight / inputs
    if outputs is None:
        return Linear(weight, linear.bias)
    return Linear(weight * outputs[:, None], None if linear.bias is None else linear.bias * outputs)

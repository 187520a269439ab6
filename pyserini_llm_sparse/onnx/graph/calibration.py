"""The calibration of the vocabulary projection in int8 by sample texts: how to share its range, how far it may err."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
from pyserini_llm_sparse.modelling.tokenization import Tokenization, TokenizedText
from pyserini_llm_sparse.onnx.graph.quantised import as_quantised

CHANNELS_PER_COPY = 16  # that many channels of the hidden states for each further one
LOST_CANDIDATES = 0.005  # share of the sample texts' terms, those with the least weights, that the margin may miss
LEAST_MAGNITUDE = 1e-6


@dataclass(frozen=True)
class Channels:
    """How the hidden states' channels go into an int8 product, equal to ``hidden @ weight.T`` without rounding.

    A few channels of trained models are many times larger than all others, which leaves these a few of the 255 values.
    A factor for each channel divides the difficulty between hidden states and weights (SmoothQuant, Xiao et al., 2023),
    and the largest are then halved, thirded and so on into equal copies (outlier channel splitting, Zhao et al., 2019).

    Attributes:
        sources: int64 ``[channels]``, where each is taken from.
        hidden_factors: float32 ``[channels]``, what the hidden states are multiplied by.
        weight_factors: The same for the weights.
    """

    sources: Tensor
    hidden_factors: Tensor
    weight_factors: Tensor

    def of_hidden(self, hidden: Tensor) -> Tensor:
        """Return hidden states ``[..., hidden]`` as they go into the product."""
        return hidden[..., self.sources] * self.hidden_factors

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return rows of the output embedding ``[terms, hidden]`` as they go into the product."""
        return weight[:, self.sources] * self.weight_factors


@dataclass(frozen=True)
class HeadCalibration:
    """What the head of an export in int8 needs.

    Attributes:
        channels: How its product is made.
        margin: A term is a candidate if its logit in int8 is above minus this.
    """

    channels: Channels
    margin: float


@torch.inference_mode()
def calibrate_head(
    backbone: Backbone, tokenization: Tokenization, texts: Sequence[TokenizedText], allowed: Tensor
) -> HeadCalibration:
    """Choose channels and margin by the hidden states of sample texts.

    Args:
        backbone: The model, in float32 on the CPU.
        tokenization: What made the texts.
        texts: Texts with content.
        allowed: bool ``[vocabulary]``, true for ids that may become terms.
    """
    pooled = [_pooled_states(backbone, tokenization, text) for text in texts]
    weight, bias = backbone.head_weight, 0 if backbone.head_bias is None else backbone.head_bias
    largest = torch.stack([states.abs().amax(0) for states in pooled]).amax(0)
    channels = balanced_channels(largest, weight.abs().amax(0))
    narrow = as_quantised(channels.of_weight(weight))
    missed = []
    for states in pooled:
        exact = (states @ weight.T).amax(0) + bias
        found = (as_quantised(channels.of_hidden(states).view(1, -1)).view(len(states), -1) @ narrow.T).amax(0) + bias
        missed.append((-found)[(exact > 0) & allowed].clamp(min=0))
    below = torch.cat(missed).sort().values
    # torch.quantile takes no more than 16 million values
    margin = float(below[int((len(below) - 1) * (1 - LOST_CANDIDATES))]) if len(below) else 0.0
    return HeadCalibration(channels, margin)


def balanced_channels(hidden: Tensor, weight: Tensor) -> Channels:
    """Return channels whose largest magnitudes are alike.

    Args:
        hidden: Largest magnitude of each channel of the hidden states, ``[hidden]``.
        weight: The same of the weights.
    """
    hidden, weight = hidden.clamp(min=LEAST_MAGNITUDE), weight.clamp(min=LEAST_MAGNITUDE)
    magnitude, copies = (hidden * weight).sqrt(), torch.ones_like(hidden)
    for _ in range(len(hidden) // CHANNELS_PER_COPY):
        copies[(magnitude / copies.sqrt()).argmax()] += 1
    sources = torch.repeat_interleave(torch.arange(len(hidden)), copies.long())
    factors = balance(hidden, weight)
    return Channels(
        sources=sources,
        hidden_factors=(factors / copies.sqrt())[sources],
        weight_factors=(1 / (factors * copies.sqrt()))[sources],
    )


def balance(activations: Tensor, weights: Tensor) -> Tensor:
    """Return factors that make the largest magnitudes of activations and weights alike, each ``[channels]``."""
    return (weights.clamp(min=LEAST_MAGNITUDE) / activations.clamp(min=LEAST_MAGNITUDE)).sqrt()


def _pooled_states(backbone: Backbone, tokenization: Tokenization, text: TokenizedText) -> Tensor:
    """Return the hidden states of a text's pooled positions, ``[positions, hidden]``."""
    batch = tokenization.batch([text])
    return backbone.hidden(batch.input_ids, batch.attention_mask)[0][batch.pool_mask[0].bool()]

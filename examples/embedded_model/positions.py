"""Makes room for positions in attention: rotary pairs that turn fast say how far, those that hardly turn say what.

A BERT adds a vector for each place to its input. What that does to a head's attention is mostly a function of the
distance between two tokens, and a smooth one, which a few rotary pairs with constant queries and keys can draw. The
content of queries and keys moves to the slow pairs, by the best approximation of their products with so few dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

HEAD_SIZE = 32
PAIRS = HEAD_SIZE // 2
ROTARY_BASE = 1e7
FAST_PAIRS = 5  # turn by 1, .37, .13, .05, .02 a token; the next by .4 over 64
FARTHEST = 100  # tokens between two whose attention is fitted
NEARBY = 8.0  # distances from there on count less and less
FIT_PENALTY = 0.05
SLOW_DIMENSIONS = [
    side * PAIRS + pair for pair in range(PAIRS - 1, FAST_PAIRS - 1, -1) for side in (0, 1)
]  # the slowest first


def frequencies() -> np.ndarray:
    """Return by how much each fast pair turns per token, ``[FAST_PAIRS]``."""
    return ROTARY_BASE ** (-np.arange(FAST_PAIRS) / PAIRS)


@dataclass
class EncoderStates:
    """What a sentence encoder computes for a batch of texts.

    Attributes:
        sums: Its sums in front of the two norms of each layer, ``[texts, length, hidden]``.
        logits: Attention's logits of each layer, ``[texts, heads, length, length]``.
    """

    sums: list[tuple[Tensor, Tensor]]
    logits: list[Tensor]


def input_states(bert: BertModel, pieces: Tensor, positions: bool) -> Tensor:
    """Return the encoder's states before its first layer, each place's own vector or the mean of all added.

    Args:
        bert: The encoder.
        pieces: Ids of its vocabulary, ``[texts, length]``.
        positions: Whether a token knows its place.
    """
    inputs = bert.embeddings
    places = inputs.position_embeddings.weight[:FARTHEST].mean(0)
    if positions:
        places = inputs.position_embeddings.weight[: pieces.shape[-1]]
    states: Tensor = inputs.LayerNorm(
        inputs.word_embeddings.weight[pieces] + inputs.token_type_embeddings.weight[0] + places
    )
    return states


def encoder_states(bert: BertModel, pieces: Tensor, mask: Tensor, positions: bool) -> EncoderStates:
    """Run the encoder and keep what it computes on its way."""
    states = input_states(bert, pieces, positions)
    result = EncoderStates([], [])
    for layer in bert.encoder.layer:
        own, output = layer.attention.self, layer.attention.output
        query, key, value = (heads(part(states)) for part in (own.query, own.key, own.value))
        logits = query @ key.transpose(-1, -2) / math.sqrt(HEAD_SIZE)
        weights = logits.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)
        first = states + output.dense((weights @ value).transpose(1, 2).flatten(2))
        states = output.LayerNorm(first)
        second = states + layer.output.dense(functional.gelu(layer.intermediate.dense(states)))
        states = layer.output.LayerNorm(second)
        result.sums.append((first, second))
        result.logits.append(logits)
    return result


def heads(states: Tensor) -> Tensor:
    """Return ``[texts, heads, length, HEAD_SIZE]`` of ``[texts, length, heads * HEAD_SIZE]``."""
    return states.unflatten(-1, (-1, HEAD_SIZE)).transpose(1, 2)


def distance_logits(bert: BertModel, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return what positions add to attention's logits, ``[layers, heads, 2 * FARTHEST + 1]``, by distance.

    Args:
        bert: The encoder.
        batches: Ids ``[texts, length]`` and masks of some texts.
    """
    config = bert.config
    distances = 2 * FARTHEST + 1
    total = torch.zeros(config.num_hidden_layers, config.num_attention_heads, distances)
    found = torch.zeros(distances)
    for pieces, mask in batches:
        with_places, without = (encoder_states(bert, pieces, mask, positions).logits for positions in (True, False))
        length = pieces.shape[1]
        distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
        both = mask[:, :, None] & mask[:, None, :] & (distance.abs() <= FARTHEST)
        both[:, 0] = both[:, :, 0] = False  # the first token is special, and so is its attention
        places = (distance + FARTHEST).expand_as(both)[both]
        found.index_add_(0, places, torch.ones(len(places)))
        for number, (one, other) in enumerate(zip(with_places, without, strict=True)):
            added = (one - other).masked_fill(~mask[:, None, None, :], 0)
            added = added - added.sum(-1, keepdim=True) / mask.sum(-1)[:, None, None, None]
            total[number].index_add_(1, places, added.transpose(0, 1)[:, both])
    return total / found.clamp(min=1)


def fit_distances(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return constant queries and keys of the fast pairs, each ``[heads, FAST_PAIRS, 2]``.

    Args:
        wanted: One layer of `distance_logits`, ``[heads, 2 * FARTHEST + 1]``.
    """
    distance = np.arange(-FARTHEST, FARTHEST + 1)
    angles = frequencies()[:, None] * distance
    waves = np.concatenate([np.ones((1, len(distance))), np.cos(angles), np.sin(angles)]).T
    importance = 1 / (1 + np.abs(distance) / NEARBY)
    products = (waves * importance[:, None]).T @ waves + FIT_PENALTY * importance.sum() * np.eye(waves.shape[1])
    found = np.linalg.solve(products, (waves * importance[:, None]).T @ wanted.numpy().T.astype(np.float64))
    cosine, sine = found[1 : 1 + FAST_PAIRS].T, found[1 + FAST_PAIRS :].T
    # A query turned by a and a key, of lengths r: r**2 cos(a - frequency * distance) = cosine * cos + sine * sin.
    size = np.sqrt(math.sqrt(HEAD_SIZE) * np.hypot(cosine, sine))
    turn = np.arctan2(sine, cosine)
    query = np.stack([size * np.cos(turn), size * np.sin(turn)], -1)
    key = np.stack([size, np.zeros_like(size)], -1)
    return torch.from_numpy(query).float(), torch.from_numpy(key).float()


def slow_maps(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps of queries and keys of one head to fewer dimensions that keep their products as well as possible.

    Args:
        query: Sample of queries, ``[tokens, HEAD_SIZE]``.
        key: Sample of keys, ``[tokens, HEAD_SIZE]``.

    Returns:
        Map of queries and map of keys, ``[slow dimensions, HEAD_SIZE]``, the most important dimension first; the mean
        key, which is to be subtracted (it adds the same to all logits of a query, which attention does not notice).
    """
    mean = key.mean(0)
    of_query, of_key = query.T @ query / len(query), (key - mean).T @ (key - mean) / len(key)
    root_query, root_key = _root(of_query), _root(of_key)
    left, size, right = torch.linalg.svd(root_query @ root_key)
    kept = len(SLOW_DIMENSIONS)
    half = size[:kept].sqrt()[:, None]
    return half * (left.T[:kept] @ _inverse(root_query)), half * (right[:kept] @ _inverse(root_key)), mean


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=1e-6).sqrt()) @ vectors.T


def _inverse(root: Tensor) -> Tensor:
    return torch.linalg.inv(root)


def place_attention(attention: nn.Module, head: int, query: tuple[Tensor, Tensor], key: tuple[Tensor, Tensor]) -> None:
    """Write weight and bias of a head's slow dimensions for queries and keys; the rest of its rows stay.

    Args:
        attention: Llama's attention.
        head: Which head.
        query, key: Weights ``[slow dimensions, hidden]`` and biases ``[slow dimensions]``, the most important first.
    """
    rows = [head * HEAD_SIZE + dimension for dimension in SLOW_DIMENSIONS]
    for projection, (weight, bias) in ((attention.q_proj, query), (attention.k_proj, key)):
        projection.weight[rows, : weight.shape[1]] = weight
        projection.bias[rows] = bias


def place_distances(attention: nn.Module, query: Tensor, key: Tensor) -> None:
    """Write the constant queries and keys of `fit_distances` into the biases of the fast pairs."""
    for head in range(len(query)):
        for projection, found in ((attention.q_proj, query), (attention.k_proj, key)):
            start = head * HEAD_SIZE
            projection.bias[start : start + FAST_PAIRS] = found[head, :, 0]
            projection.bias[start + PAIRS : start + PAIRS + FAST_PAIRS] = found[head, :, 1]

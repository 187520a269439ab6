"""The pieces with which examples/embedded_model moves a BERT into a Llama do what they say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding, apply_rotary_pos_emb

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "embedded_model"


@pytest.fixture
def positions() -> Iterator[ModuleType]:
    """The module, imported as its scripts import it."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        import positions

        yield positions
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def attention(positions: ModuleType, heads: int) -> tuple[LlamaAttention, LlamaConfig]:
    config = LlamaConfig(
        hidden_size=heads * positions.HEAD_SIZE, num_attention_heads=heads, num_key_value_heads=heads,
        attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": positions.ROTARY_BASE},
    )  # fmt: skip
    layer = LlamaAttention(config, 0)
    for parameter in layer.parameters():
        parameter.data.zero_()
    return layer, config


@torch.no_grad()
def logits(positions: ModuleType, layer: LlamaAttention, config: LlamaConfig, states: torch.Tensor) -> torch.Tensor:
    query, key = positions.heads(layer.q_proj(states)), positions.heads(layer.k_proj(states))
    places = torch.arange(states.shape[1])[None]
    query, key = apply_rotary_pos_emb(query, key, *LlamaRotaryEmbedding(config)(states, places))
    return query @ key.transpose(-1, -2) / positions.HEAD_SIZE**0.5


def centred(values: torch.Tensor) -> torch.Tensor:
    return values - values.mean(-1, keepdim=True)


def test_rotary_pairs_draw_a_function_of_the_distance(positions: ModuleType) -> None:
    distance = torch.arange(-positions.FARTHEST, positions.FARTHEST + 1).float()
    first, second = (float(value) for value in positions.frequencies()[:2])
    wanted = torch.stack([6 * torch.cos(first * distance + 1), 4 * torch.sin(second * distance - 0.3)])
    layer, config = attention(positions, 2)
    with torch.no_grad():
        positions.place_distances(layer, *positions.fit_distances(wanted))
    found = logits(positions, layer, config, torch.randn(1, 60, config.hidden_size))[0]
    length = found.shape[-1]
    offsets = torch.arange(length)[None, :] - torch.arange(length)[:, None] + positions.FARTHEST
    error = centred(found) - centred(wanted[:, offsets])
    assert error.std() < 0.15 * centred(wanted[:, offsets]).std()  # the fit is held back a little


def test_slow_pairs_keep_the_content_of_queries_and_keys(positions: ModuleType) -> None:
    torch.manual_seed(3)
    rank = len(positions.SLOW_DIMENSIONS) - 2
    mixing = torch.randn(2, rank, positions.HEAD_SIZE) / rank**0.5
    states = torch.randn(2000, rank)
    query, key = states @ mixing[0], states.flip(0) @ mixing[1] + 0.5
    of_query, of_key, mean = positions.slow_maps(query, key)
    expected = query[:50] @ key[:50].T
    found = (query[:50] @ of_query.T) @ ((key[:50] - mean) @ of_key.T).T
    assert torch.allclose(centred(found), centred(expected), atol=0.05 * float(expected.std()))


def test_placed_content_hardly_turns_within_a_text(positions: ModuleType) -> None:
    torch.manual_seed(3)
    layer, config = attention(positions, 1)
    count = 8  # the most important of a head's dimensions, which turn least
    weight = torch.zeros(len(positions.SLOW_DIMENSIONS), config.hidden_size)
    weight[:count] = torch.randn(count, config.hidden_size)
    with torch.no_grad():
        positions.place_attention(layer, 0, (weight, torch.zeros(len(weight))), (weight, torch.zeros(len(weight))))
    states = torch.randn(1, 150, config.hidden_size)
    content = states @ weight.T
    expected = content @ content.transpose(-1, -2) / positions.HEAD_SIZE**0.5
    assert torch.allclose(logits(positions, layer, config, states)[0], expected, atol=0.02 * float(expected.std()))

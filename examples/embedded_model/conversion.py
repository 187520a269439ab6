"""Moves a BERT sentence encoder into the layout of a Llama, so that training starts from a body that understands texts.

A BERT layer normalises after it adds, ``x = norm(x + f(x))``; a Llama layer before it computes, ``y = y + f(norm(y))``.
If the spread of each sum were the same for all tokens, BERT's norm would be an affine map of every dimension, and
BERT's state a fixed affine map of Llama's residual stream, ``x = scale * y + shift``. It nearly is: so scales and
shifts are followed through the layers and folded into the weights, with the spread that some texts have on average.
The last projection of each sublayer is then fitted anew to BERT's own sums, for what is lost by that, by positions, and
by the layers and neurons that are left out. What is still lost, some ten thousand texts of distillation bring back.

Biases are Llama's (``attention_bias``, ``mlp_bias``). GELU is SiLU, ``gelu(x) = silu(1.702 x) / 1.702`` to .02, with an
upper projection that is constant. Positions are rotary (see `positions`). A layer more pools: it adds the mean of all
states to each position, and so to BOS.

Beside the encoder's dimensions the stream has `OWN_DIMENSIONS` more, in which terms keep their names; `initialisation`
fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from encoding import padded
from positions import (
    HEAD_SIZE,
    ROTARY_BASE,
    distance_logits,
    encoder_states,
    fit_distances,
    heads,
    input_states,
    place_attention,
    place_distances,
    slow_maps,
)
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

OWN_DIMENSIONS = 32  # 30 of a term's code, ballast, gate
BALLAST = -2  # place of the dimension that only BOS has
LAYERS = (0, 2, 5)  # of the encoder's six
LAST_COVERED = (1, 4, 5)  # each stands for the encoder's layers up to this one
FIT_PENALTY = 0.01  # of a projection's change, relative to the mean square of what goes in
POOLING = 3.0  # how much of the mean state is added to each position
LEAST_SCALE, LARGEST_SCALE = 0.03, 30.0
SILU_FACTOR = 1.702
PART = 16  # texts that go through the encoder together


@dataclass
class Stream:
    """Where the conversion is in Llama's residual stream.

    Attributes:
        states: Residual stream of the sample, own dimensions included, ``[texts, length, width]``.
        mask: What is not padding, ``[texts, length]``.
        wanted: BERT's state there, ``[tokens, hidden]``.
        scale, shift: BERT's state is about ``scale * states + shift`` in the first dimensions, ``[hidden]``.
    """

    states: Tensor
    mask: Tensor
    wanted: Tensor
    scale: Tensor
    shift: Tensor

    def __post_init__(self) -> None:
        first = torch.zeros_like(self.mask)
        first[:, 0] = True
        self.first = first[self.mask]

    def set_norm(self, norm: nn.Module) -> Tensor:
        """Give a Llama norm the weight with which it yields BERT's state less its shift; return what it yields."""
        norm.weight.fill_(1)
        size = self.states[self.mask][~self.first].square().mean(-1).sqrt().mean()
        norm.weight[: len(self.scale)] = size * self.scale
        result: Tensor = norm(self.states)
        return result

    def correction(self, normed: Tensor) -> Tensor:
        """Return what BOS lacks to have the state that BERT's first token has on average, by its ballast: ``[hidden]``.

        That token takes what attention has no use for. Its state hardly depends on the text and is far from all others.
        """
        seen = normed[:, 0].mean(0)
        return (self.wanted[self.first].mean(0) - self.shift - seen[: len(self.shift)]) / seen[BALLAST]

    def correct(self, readers: Sequence[nn.Linear], normed: Tensor) -> None:
        """Let projections read BOS's ballast as what BOS lacks."""
        for reader in readers:
            reader.weight[:, BALLAST] += reader.weight[:, : len(self.shift)] @ self.correction(normed)

    def add(self, projection: nn.Linear, inner: Tensor, copied: Tensor, total: Tensor, norm: nn.LayerNorm) -> None:
        """Write a sublayer's last projection, add its output, and make the norm behind it part of scale and shift.

        The projection is fitted to what is missing between the stream and BERT's next state, but stays near BERT's.

        Args:
            projection: Llama's, to be written.
            inner: What goes into it, ``[texts, length, inner]``.
            copied: BERT's weight, its columns those of `inner`, ``[hidden, inner]``.
            total: BERT's own sum in front of its norm, ``[tokens, hidden]``.
            norm: That norm.
        """
        hidden = len(self.scale)
        weight = copied / self.scale[:, None]
        others = total[~self.first]
        spread, mean = others.std(1).median(), others.mean(1).median()
        scale = self.scale * norm.weight / spread
        scale = scale.abs().clamp(LEAST_SCALE, LARGEST_SCALE) * torch.where(scale < 0, -1.0, 1.0)
        shift = (self.shift - mean) * norm.weight / spread + norm.bias
        self.wanted = norm(total)
        seen = inner[self.mask][~self.first][:, : weight.shape[1]]
        now = self.states[self.mask][~self.first][:, :hidden]
        missing = (self.wanted[~self.first] - shift) / scale - now - seen @ weight.T
        centred = seen - seen.mean(0)
        products = centred.T @ centred
        products += FIT_PENALTY * products.diagonal().mean() * torch.eye(len(products))
        change = torch.linalg.solve(products, centred.T @ (missing - missing.mean(0))).T
        projection.weight[:hidden, : weight.shape[1]] = weight + change
        projection.bias[:hidden] = missing.mean(0) - change @ seen.mean(0)
        self.states = self.states + projection(inner)
        self.scale, self.shift = scale, shift


def configuration(tokenizer: PreTrainedTokenizerFast, hidden: int, feed_forward: int) -> LlamaConfig:
    """Return the configuration of a Llama that a BERT of width `hidden` fits into."""
    width = hidden + OWN_DIMENSIONS
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=len(LAYERS) + 1,
        num_attention_heads=width // HEAD_SIZE,
        num_key_value_heads=width // HEAD_SIZE,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )


@torch.no_grad()
def convert(model: LlamaForCausalLM, bert: BertModel, pieces: Tensor, texts: Sequence[np.ndarray]) -> None:
    """Let the first dimensions of a model compute nearly what a sentence encoder computes.

    Args:
        model: The model; all of it is 0 but the own dimensions, and what belongs to these.
        bert: The encoder.
        pieces: The encoder's id of each of our terms, ``[vocabulary]``.
        texts: Some hundred texts as ids of ours, by which projections are fitted.
    """
    hidden = bert.config.hidden_size
    ids, mask = padded(texts, 1 + max(len(text) for text in texts), model.config)
    parts = list(zip(pieces[ids].split(PART), mask.split(PART), strict=True))
    sums = _sums(bert, parts)
    distances = distance_logits(bert, parts)
    first = input_states(bert, pieces[:, None], positions=False)[:, 0]
    scale = _first_scale(bert, sums)
    model.model.embed_tokens.weight[:, :hidden] = first / scale
    wanted = input_states(bert, pieces[ids], positions=True)[mask]
    stream = Stream(model.model.embed_tokens(ids), mask, wanted, scale, torch.zeros(hidden))
    for layer, number, covered in zip(model.model.layers, LAYERS, LAST_COVERED, strict=False):
        source = bert.encoder.layer[number]
        place_distances(layer.self_attn, *fit_distances(distances[number]))
        _convert_attention(model, layer, source, stream, sums[number][0])
        norm = bert.encoder.layer[covered].output.LayerNorm
        _convert_feed_forward(layer, source, stream, sums[covered][1], norm)
    _pool(model.model.layers[-1], stream)
    model.model.norm.weight.fill_(1)


def _sums(bert: BertModel, parts: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return BERT's own sums in front of the two norms of each layer, each ``[tokens, hidden]``."""
    found = [[] for _ in range(bert.config.num_hidden_layers)]  # type: list[list[tuple[Tensor, Tensor]]]
    for pieces, mask in parts:
        sums = encoder_states(bert, pieces, mask, positions=True).sums
        for number, (first, second) in enumerate(sums):
            found[number].append((first[mask], second[mask]))
    return [(torch.cat([one for one, _ in layer]), torch.cat([two for _, two in layer])) for layer in found]


def _first_scale(bert: BertModel, sums: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the scale to begin with, such that it has come half of its way in the middle of the network."""
    whole = torch.ones(sums[0][0].shape[1])
    for number, covered in zip(LAYERS, LAST_COVERED, strict=True):
        whole *= bert.encoder.layer[number].attention.output.LayerNorm.weight / sums[number][0].std(1).mean()
        whole *= bert.encoder.layer[covered].output.LayerNorm.weight / sums[covered][1].std(1).mean()
    return whole.abs().clamp(LEAST_SCALE**2, 1).pow(-0.5)


def _convert_attention(
    model: LlamaForCausalLM, layer: nn.Module, source: nn.Module, stream: Stream, total: Tensor
) -> None:
    own, output, ours = source.attention.self, source.attention.output, layer.self_attn
    hidden = len(stream.scale)
    normed = stream.set_norm(layer.input_layernorm)
    sample = normed[..., :hidden].clone()
    sample[:, 0] += stream.correction(normed) * normed[:, 0, BALLAST, None]
    sample = sample[stream.mask]
    maps = []
    for part in (own.query, own.key):
        bias = part.bias + part.weight @ stream.shift
        maps.append((part.weight, bias, heads((sample @ part.weight.T + bias)[None])[0]))
    (query, query_bias, queries), (key, key_bias, keys) = maps
    for head in range(len(queries)):
        rows = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
        of_query, of_key, mean = slow_maps(queries[head], keys[head])
        placed_query = of_query @ query[rows], of_query @ query_bias[rows]
        placed_key = of_key @ key[rows], of_key @ (key_bias[rows] - mean)
        place_attention(ours, head, placed_query, placed_key)
    ours.v_proj.weight[:hidden, :hidden] = own.value.weight
    ours.v_proj.bias[:hidden] = own.value.bias + own.value.weight @ stream.shift
    stream.correct((ours.q_proj, ours.k_proj, ours.v_proj), normed)
    stream.add(ours.o_proj, attended(model, ours, normed, stream.mask), output.dense.weight, total, output.LayerNorm)


def attended(model: LlamaForCausalLM, attention: nn.Module, normed: Tensor, mask: Tensor) -> Tensor:
    """Return what attention's last projection gets, ``[texts, length, width]``."""
    query, key, value = (heads(part(normed)) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    places = torch.arange(normed.shape[1])[None]
    query, key = apply_rotary_pos_emb(query, key, *model.model.rotary_emb(normed, places))
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
    return found.transpose(1, 2).flatten(2)


def _convert_feed_forward(
    layer: nn.Module, source: nn.Module, stream: Stream, total: Tensor, norm: nn.LayerNorm
) -> None:
    inner, output, ours = source.intermediate.dense, source.output.dense, layer.mlp
    hidden = len(stream.scale)
    normed = stream.set_norm(layer.post_attention_layernorm)
    bias = inner.bias + inner.weight @ stream.shift
    said = functional.gelu(normed[stream.mask][~stream.first][:, :hidden] @ inner.weight.T + bias)
    # The neurons that say the most.
    kept = (said.std(0) * output.weight.norm(dim=0)).topk(ours.gate_proj.out_features).indices
    ours.gate_proj.weight[:, :hidden] = SILU_FACTOR * inner.weight[kept]
    ours.gate_proj.bias.copy_(SILU_FACTOR * bias[kept])
    ours.up_proj.bias.fill_(1 / SILU_FACTOR)
    stream.correct((ours.gate_proj,), normed)
    said = functional.silu(ours.gate_proj(normed)) * ours.up_proj(normed)
    stream.add(ours.down_proj, said, output.weight[:, kept], total, norm)


def _pool(layer: nn.Module, stream: Stream) -> None:
    """Make the last layer add the mean of all states to each position, as the encoder pools them."""
    hidden = len(stream.scale)
    normed = stream.set_norm(layer.input_layernorm)
    layer.post_attention_layernorm.weight.fill_(1)
    layer.self_attn.v_proj.weight[:hidden, :hidden] = torch.eye(hidden)
    stream.correct((layer.self_attn.v_proj,), normed)
    layer.self_attn.o_proj.weight[:hidden, :hidden] = POOLING * torch.eye(hidden)
    # Its feed-forward network says nothing yet, but can learn to.
    nn.init.normal_(layer.mlp.gate_proj.weight, std=0.02)
    layer.mlp.up_proj.bias.fill_(1 / SILU_FACTOR)

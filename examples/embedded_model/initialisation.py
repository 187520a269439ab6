"""Builds a small Llama that matches words before any training, so that training starts from retrieval that works.

The input embedding of a term is ``[unit vector, gate]`` and its row in the head ``scale * [the same vector, -1]``: a
term's own logit is positive, and another's only where the two vectors nearly agree, less still where the term is
frequent, since the gate of frequent terms is higher. The first layer's attention finds equal terms and adds their
share of the text to each, which is term frequency under BM25's saturation and length normalisation in one:
``n * e**gain / (n * e**gain + length)``. BOS has no vector of its own, so it attends to all terms alike and carries
their mean: the topic of the text, from which the head reads terms that the text does not contain. Everything else
starts at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from encoding import hidden_states, padded
from teacher import Teacher, teacher_folder
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

IDF_FACTOR = 0.3  # a term's weight is sqrt(IDF_FACTOR * IDF), so that a matched pair scores like BM25
ATTENTION_GAIN = 4.5
ATTENTION_SHARE = 0.6  # how much of the attended vectors is added to a position
TYPICAL_SHARE = 0.35  # of a term that occurs once in a text of 150 tokens, at this gain
GATE_RANGE = 0.12
BOS_BALLAST = 0.6  # in a dimension that no term has: keeps the mean of the terms' vectors, .2 long, from being blown up
SLOW_FREQUENCIES = 16  # of 32 RoPE pairs: those that turn less than 2 radians over 200 positions


def configuration(tokenizer: PreTrainedTokenizerFast, layers: int, hidden: int, feed_forward: int) -> LlamaConfig:
    """Return the configuration of the embedded model: a plain Llama with an untied head."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )


def query_weights(idf: np.ndarray, stop_words: np.ndarray) -> Tensor:
    """Return ``sqrt(IDF_FACTOR * IDF)`` for every term, 0 for stop-words: float32 ``[vocabulary]``."""
    weights = torch.from_numpy(np.sqrt(IDF_FACTOR * idf)).float()
    weights[torch.from_numpy(stop_words)] = 0
    return weights


def embedded_terms(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return the teacher's embedding of every term on its own, ``[vocabulary, 384]``."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = [tokenizer.convert_tokens_to_string([token]).strip() or token for token in tokens]
    return Teacher(teacher_folder()).embed(words, longest=16)


def term_vectors(vectors: Tensor, tokenizer: PreTrainedTokenizerFast, dimensions: int, seed: int) -> Tensor:
    """Return a unit vector for every term: the teacher's for the word, centred, by PCA; pieces get noise added."""
    generator = torch.Generator().manual_seed(seed)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    vectors = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(vectors, full_matrices=False)
    vectors = nn.functional.normalize(vectors @ axes[:dimensions].T)
    noise = nn.functional.normalize(torch.randn(vectors.shape, generator=generator))
    whole = torch.tensor([token.startswith("Ġ") and len(token) > 2 for token in tokens])
    return torch.where(whole[:, None], vectors, nn.functional.normalize(0.6 * vectors + 0.8 * noise))


@torch.no_grad()
def initial_model(
    tokenizer: PreTrainedTokenizerFast, embedded: Tensor, idf: np.ndarray, stop_words: np.ndarray, layers: int,
    hidden: int, feed_forward: int, seed: int,
) -> LlamaForCausalLM:  # fmt: skip
    """Return the untrained model whose documents already carry their own terms at BM25-like weights."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(configuration(tokenizer, layers, hidden, feed_forward)).float()
    vectors = term_vectors(embedded, tokenizer, hidden - 2, seed)
    gate = 1 + GATE_RANGE * torch.from_numpy(np.clip((6 - idf) / 3, 0, 1)).float()
    embedding = torch.cat([vectors, torch.zeros(len(gate), 1), gate[:, None]], 1)
    embedding[tokenizer.bos_token_id] = 0
    embedding[tokenizer.bos_token_id, -2] = BOS_BALLAST
    model.model.embed_tokens.weight.copy_(embedding)

    # The final norm multiplies by sqrt(hidden) / length, with length**2 about (1 + share)**2 + gate**2.
    strength = 1 + ATTENTION_SHARE * TYPICAL_SHARE
    norm_factor = math.sqrt(hidden) / torch.sqrt(strength**2 + gate**2)
    target = torch.expm1(query_weights(idf, stop_words))
    scale = target / (norm_factor * (strength - gate))
    model.lm_head.weight.copy_(
        torch.cat([vectors, torch.zeros(len(gate), 1), -torch.ones(len(gate), 1)], 1) * scale[:, None]
    )

    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    _count_equal_terms(model, hidden)
    return model


@torch.no_grad()
def calibrate_expansions(
    model: LlamaForCausalLM, documents: Sequence[np.ndarray], longest: int, targets: Tensor
) -> None:
    """Move the logits at BOS so that each term's mean over some documents is the mean of its targets.

    Args:
        model: as `initial_model` made it.
        documents: token ids.
        longest: most tokens of a document.
        targets: what the logits at BOS should be, ``[documents, vocabulary]``.
    """
    states = []
    for start in range(0, len(documents), 32):
        ids, mask = padded(documents[start : start + 32], longest, model.config)
        states.append(hidden_states(model, ids, mask)[:, 0])
    mean_state = torch.cat(states).mean(0)
    head = model.lm_head.weight
    # Only BOS has ballast, so that its column of the head is a bias there and nowhere else.
    head[:, -2] += (targets.mean(0) - head @ mean_state) / mean_state[-2]


def _count_equal_terms(model: LlamaForCausalLM, hidden: int) -> None:
    """Make the first layer attend to equal terms whatever their distance, and pass their vectors on."""
    attention = model.model.layers[0].self_attn
    input_length = math.sqrt(hidden / 2)  # of the vector part after the input norm, the gate being about 1
    for head in range(hidden // 64):
        rows = torch.zeros(64, hidden)
        slow = torch.cat([torch.arange(32 - SLOW_FREQUENCIES, 32), torch.arange(64 - SLOW_FREQUENCIES, 64)])
        projection = torch.randn(2 * SLOW_FREQUENCIES, hidden - 2) / math.sqrt(2 * SLOW_FREQUENCIES)
        rows[slow, : hidden - 2] = projection * math.sqrt(ATTENTION_GAIN * 8) / input_length
        attention.q_proj.weight[head * 64 : (head + 1) * 64] = rows
        attention.k_proj.weight[head * 64 : (head + 1) * 64] = rows
    identity = torch.eye(hidden)
    identity[-2:, -2:] = 0  # gate and ballast stay as they are
    attention.v_proj.weight.copy_(identity / input_length)
    attention.o_proj.weight.copy_(identity * ATTENTION_SHARE)

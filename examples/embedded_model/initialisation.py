"""Builds a small Llama that matches words before any training, so that training starts from retrieval that works.

The input embedding of a term is ``[unit vector, gate]`` and its row in the head ``scale * [the same vector, -1]``: a
term's own logit is positive, and another's only where the two vectors nearly agree, less still where the term is
frequent, since the gate of frequent terms is higher. The first layer's attention finds equal terms and adds their
share of the text to each, which is term frequency under BM25's saturation and length normalisation in one:
``n * e**gain / (n * e**gain + length)``. Everything else starts at zero.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from teacher import Teacher, teacher_folder
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

IDF_FACTOR = 0.3  # a term's weight is sqrt(IDF_FACTOR * IDF), so that a matched pair scores like BM25
ATTENTION_GAIN = 4.5
ATTENTION_SHARE = 0.6  # how much of the attended vectors is added to a position
TYPICAL_SHARE = 0.35  # of a term that occurs once in a text of 150 tokens, at this gain
GATE_RANGE = 0.12
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


def term_vectors(tokenizer: PreTrainedTokenizerFast, dimensions: int, seed: int) -> Tensor:
    """Return a unit vector for every term: the teacher's for the word, centred, by PCA; pieces get noise added."""
    generator = torch.Generator().manual_seed(seed)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = [tokenizer.convert_tokens_to_string([token]).strip() or token for token in tokens]
    vectors = Teacher(teacher_folder()).embed(words, longest=16)
    vectors = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(vectors, full_matrices=False)
    vectors = nn.functional.normalize(vectors @ axes[:dimensions].T)
    noise = nn.functional.normalize(torch.randn(vectors.shape, generator=generator))
    whole = torch.tensor([token.startswith("Ġ") and len(token) > 2 for token in tokens])
    return torch.where(whole[:, None], vectors, nn.functional.normalize(0.6 * vectors + 0.8 * noise))


@torch.no_grad()
def initial_model(
    tokenizer: PreTrainedTokenizerFast, idf: np.ndarray, stop_words: np.ndarray, layers: int, hidden: int,
    feed_forward: int, seed: int,
) -> LlamaForCausalLM:  # fmt: skip
    """Return the untrained model whose documents already carry their own terms at BM25-like weights."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(configuration(tokenizer, layers, hidden, feed_forward)).float()
    vectors = term_vectors(tokenizer, hidden - 1, seed)
    gate = 1 + GATE_RANGE * torch.from_numpy(np.clip((6 - idf) / 3, 0, 1)).float()
    embedding = torch.cat([vectors, gate[:, None]], 1)
    model.model.embed_tokens.weight.copy_(embedding)

    # The final norm multiplies by sqrt(hidden) / length, with length**2 about (1 + share)**2 + gate**2.
    strength = 1 + ATTENTION_SHARE * TYPICAL_SHARE
    norm_factor = math.sqrt(hidden) / torch.sqrt(strength**2 + gate**2)
    target = torch.expm1(query_weights(idf, stop_words))
    scale = target / (norm_factor * (strength - gate))
    model.lm_head.weight.copy_(torch.cat([vectors, -torch.ones(len(gate), 1)], 1) * scale[:, None])

    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    _count_equal_terms(model, hidden)
    return model


def _count_equal_terms(model: LlamaForCausalLM, hidden: int) -> None:
    """Make the first layer attend to equal terms whatever their distance, and pass their vectors on."""
    attention = model.model.layers[0].self_attn
    input_length = math.sqrt(hidden / 2)  # of the vector part after the input norm, the gate being about 1
    for head in range(hidden // 64):
        rows = torch.zeros(64, hidden)
        slow = torch.cat([torch.arange(32 - SLOW_FREQUENCIES, 32), torch.arange(64 - SLOW_FREQUENCIES, 64)])
        projection = torch.randn(2 * SLOW_FREQUENCIES, hidden - 1) / math.sqrt(2 * SLOW_FREQUENCIES)
        rows[slow, : hidden - 1] = projection * math.sqrt(ATTENTION_GAIN * 8) / input_length
        attention.q_proj.weight[head * 64 : (head + 1) * 64] = rows
        attention.k_proj.weight[head * 64 : (head + 1) * 64] = rows
    identity = torch.eye(hidden)
    identity[-1, -1] = 0  # the gate stays as it is
    attention.v_proj.weight.copy_(identity / input_length)
    attention.o_proj.weight.copy_(identity * ATTENTION_SHARE)

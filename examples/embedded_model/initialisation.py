"""Builds a small Llama that matches words before any training, so that training starts from retrieval that works.

Its body is a sentence encoder's (see `conversion`). In the own dimensions a term's input embedding is ``[code, 0, 1]``
and its row in the head ``scale * [the same code, 0, -1]``: a term's own logit is positive where the code is a little
longer than it began, and no other term's is. What makes it longer is one head of the first layer's attention, which
finds equal terms and adds their share of the text to each: term frequency under BM25's saturation and length
normalisation in one, ``n * e**gain / (n * e**gain + length)``. BOS has a ballast instead of a code, so no term's own
logit is positive there, and the head reads the topic of the text from the encoder's dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from conversion import BALLAST, OWN_DIMENSIONS, configuration, convert
from encoding import hidden_states, padded
from expansion_targets import ExpansionTargets
from positions import HEAD_SIZE, SLOW_DIMENSIONS
from teacher import Teacher
from tokenizer_training import INSIDE
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IDF_FACTOR = 0.3  # a term's weight is sqrt(IDF_FACTOR * IDF), so that a matched pair scores like BM25
OWN_SQUARE = 2000.0  # sum of squares of the own dimensions, the same for all tokens; far more than of the others
ATTENTION_GAIN = 4.5
SELF_ATTENTION = 14.0  # logit of BOS for itself
ATTENTION_SHARE = 0.6  # how much of the attended codes is added to a position
CODE = OWN_DIMENSIONS - 2
CODE_LENGTH = math.sqrt(OWN_SQUARE / 2)


def query_weights(idf: np.ndarray, stop_words: np.ndarray) -> Tensor:
    """Return ``sqrt(IDF_FACTOR * IDF)`` for every term, 0 for stop-words: float32 ``[vocabulary]``."""
    weights = torch.from_numpy(np.sqrt(IDF_FACTOR * idf)).float()
    weights[torch.from_numpy(stop_words)] = 0
    return weights


def embedded_terms(teacher: Teacher, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return the teacher's embedding of every term on its own, ``[vocabulary, 384]``."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return teacher.embed([token.removeprefix(INSIDE) for token in tokens], longest=16)


@torch.no_grad()
def initial_model(
    tokenizer: PreTrainedTokenizerFast, teacher: Teacher, texts: Sequence[np.ndarray], feed_forward: int, seed: int
) -> LlamaForCausalLM:
    """Return the untrained model, its head still 0: see `fit_head`.

    Args:
        tokenizer: Ours.
        teacher: The sentence encoder.
        texts: Some documents as ids, not longer than the model reads.
        feed_forward: Neurons of each layer's feed-forward network.
        seed: Seed of the codes.
    """
    torch.manual_seed(seed)
    bert = teacher.model.float()
    model = LlamaForCausalLM(configuration(tokenizer, bert.config.hidden_size, feed_forward)).float()
    for parameter in model.parameters():
        parameter.zero_()
    _name_terms(model, nn.functional.normalize(torch.randn(len(tokenizer), CODE)))
    _count_equal_terms(model)
    known = teacher.tokenizer.get_vocab()
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    convert(model, bert, torch.tensor([known[token] for token in tokens]), texts)
    return model


def _name_terms(model: LlamaForCausalLM, codes: Tensor) -> None:
    embedding, bos = model.model.embed_tokens.weight, model.config.bos_token_id
    embedding[:, -OWN_DIMENSIONS:-2] = CODE_LENGTH * codes
    embedding[:, -1] = CODE_LENGTH
    embedding[bos, -OWN_DIMENSIONS:] = 0
    embedding[bos, -2] = math.sqrt(OWN_SQUARE)


def _count_equal_terms(model: LlamaForCausalLM) -> None:
    """Let the last head of the first layer attend to equal terms and add their codes."""
    attention = model.model.layers[0].self_attn
    start, width = model.config.hidden_size - OWN_DIMENSIONS, model.config.hidden_size
    length = CODE_LENGTH / math.sqrt(OWN_SQUARE / width)  # of a code behind the norm, the others being small yet
    # As many of a code's dimensions as there are pairs that hardly turn: equal terms are found at any distance.
    *slow, last = SLOW_DIMENSIONS
    gain = math.sqrt(ATTENTION_GAIN * math.sqrt(HEAD_SIZE) * CODE / len(slow)) / length
    for place, dimension in enumerate(slow):
        attention.q_proj.weight[start + dimension, start + place] = gain
        attention.k_proj.weight[start + dimension, start + place] = gain
    # BOS attends to itself alone: the mean code of the text would blur what the head reads there.
    alone = math.sqrt(SELF_ATTENTION * math.sqrt(HEAD_SIZE)) * CODE_LENGTH / (length * math.sqrt(OWN_SQUARE))
    attention.q_proj.weight[start + last, BALLAST] = alone
    attention.k_proj.weight[start + last, BALLAST] = alone
    for place in range(CODE):
        attention.v_proj.weight[start + place, start + place] = CODE_LENGTH / length
        attention.o_proj.weight[start + place, start + place] = ATTENTION_SHARE


@torch.no_grad()
def fit_head(
    model: LlamaForCausalLM,
    table: Tensor,
    texts: Sequence[np.ndarray],
    own_weights: Tensor,
    targets: ExpansionTargets,
    reader: nn.Linear,
) -> None:
    """Let the head read each term's own weight at its positions, and all terms' targets from the state at BOS.

    Args:
        model: The model.
        table: Query weights, ``[vocabulary]``.
        texts: Some documents as ids, not longer than the model reads.
        own_weights: What their own terms should weigh, ``[texts, vocabulary]``.
        targets: What all terms should weigh, from the encoder's embedding.
        reader: That embedding from the first dimensions of the state at BOS.
    """
    head = model.lm_head.weight
    head[:, :-OWN_DIMENSIONS] = targets.term_vectors @ reader.weight
    embedding = model.model.embed_tokens.weight
    head[:, -OWN_DIMENSIONS:-2] = nn.functional.normalize(embedding[:, -OWN_DIMENSIONS:-2])
    head[:, -1] = -1
    head[:, -OWN_DIMENSIONS:] *= torch.expm1(table)[:, None]
    ids, mask = padded(texts, 1 + max(len(text) for text in texts), model.config)
    states = hidden_states(model, ids, mask)
    own = (states[:, 1:] * head[ids[:, 1:]])[..., -OWN_DIMENSIONS:].sum(2)
    wanted = torch.expm1(own_weights.gather(1, ids[:, 1:]))
    counted = mask[:, 1:] & (wanted > 0)
    head[:, -OWN_DIMENSIONS:] *= (wanted[counted] / own[counted]).median()
    # Only BOS has a ballast, so that its column of the head is a bias there and nowhere else.
    bias = targets(reader.bias[None])[0]
    head[:, BALLAST] = bias / states[:, 0, BALLAST].mean()

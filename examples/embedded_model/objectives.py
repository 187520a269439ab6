"""The losses: distillation within the batch, weights of a document's own terms, and sparse expansions.

After SPLADE-v3's distillation (Lassance et al., 2024), inference-free queries (Geng et al., 2024) and CSPLADE's
adaptation to a sparse head (Xu et al., 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from evaluation import K1, B
from initialisation import IDF_FACTOR
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Weights:
    """How much each part of the loss counts.

    Attributes:
        own_first: mean squared error of own terms at the start; falls along a straight line to `own_last`.
        own_last: the same at the end.
        length: L1 on the weights of terms that do not occur in the document.
        flops: FLOPs regularisation (Paria et al., 2020) on the same.
        hint: pull on the terms of a document's query that do not occur in it and have no weight yet; without it a
            term whose logit is negative never gets a gradient.
        lexical, semantic, label: the teacher's logits are this times BM25, cosine and being a pair.
    """

    own_first: float = 2.0
    own_last: float = 0.3
    length: float = 0.004
    flops: float = 0.02
    hint: float = 0.02
    lexical: float = 0.5
    semantic: float = 20.0
    label: float = 2.0


@dataclass
class Batch:
    """What the losses need to know of the texts of a batch.

    Attributes:
        query_counts: how often each term occurs in each query, ``[pairs, vocabulary]``.
        own_weights: BM25-like weights of each document's own terms, ``[pairs, vocabulary]``.
        present: which terms occur in each document, ``[pairs, vocabulary]``.
        cosine: the sentence encoder's cosines, query by document; None where it has not embedded the texts.
        same: which documents answer which queries, bool ``[pairs, pairs]``.
    """

    query_counts: Tensor
    own_weights: Tensor
    present: Tensor
    cosine: Tensor | None
    same: Tensor


def term_counts(texts: Sequence[np.ndarray], vocabulary: int) -> Tensor:
    """Return how often each term occurs in each text, float32 ``[texts, vocabulary]``."""
    counts = torch.zeros(len(texts), vocabulary)
    for row, ids in enumerate(texts):
        counts[row] = torch.from_numpy(np.bincount(ids, minlength=vocabulary).astype(np.float32))
    return counts


def own_term_weights(counts: Tensor, query_weights: Tensor, average_length: float) -> Tensor:
    """Return ``sqrt(.3 IDF)`` times BM25's saturation and length factor, ``[texts, vocabulary]``.

    Multiplied with query weights ``sqrt(.3 IDF)`` this is .3 times the BM25 score.
    """
    lengths = counts.sum(1, keepdim=True)
    saturation = counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / average_length))
    return saturation * query_weights


def retrieval_loss(
    logits: Tensor, table: Tensor, initial_table: Tensor, temperature: Tensor, batch: Batch, weights: Weights,
    progress: float,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """Return the loss of a batch and its parts.

    Args:
        logits: largest logit of each term in each document, stop-words at minus something, ``[pairs, vocabulary]``.
        table: query weights being learnt, ``[vocabulary]``.
        initial_table: query weights that the targets were made with, ``[vocabulary]``.
        temperature: factor on the scores before their softmax.
        batch: the batch.
        weights: weights of the parts.
        progress: 0 at the start of the training, 1 at its end.
    """
    document = torch.log1p(torch.relu(logits))
    scores = (batch.query_counts * table) @ document.T * temperature
    lexical = (batch.query_counts * initial_table) @ batch.own_weights.T / IDF_FACTOR
    teacher = weights.lexical * lexical + weights.label * batch.same
    if batch.cosine is not None:
        teacher = teacher + weights.semantic * batch.cosine
    else:  # the label alone has to say what the words do not
        teacher = teacher + 2 * weights.label * batch.same
    distillation = functional.kl_div(
        functional.log_softmax(scores, 1), functional.log_softmax(teacher, 1), log_target=True, reduction="batchmean"
    )
    # Below zero the logit itself is compared, so that a lost term finds its way back.
    signed = torch.where(logits > 0, document, logits.clamp(min=-1))
    wanted = batch.present * (initial_table > 0)
    own = ((signed - batch.own_weights).square() * wanted).sum() / wanted.sum().clamp(min=1)
    expansion = document * (1 - batch.present)
    length = expansion.sum(1).mean()
    flops = expansion.mean(0).square().sum()
    missed = (batch.query_counts > 0) & (batch.present == 0) & (initial_table > 0) & (logits < 0.2)
    hint = (functional.softplus(-logits) * initial_table * missed).sum() / len(logits)
    own_weight = weights.own_first + (weights.own_last - weights.own_first) * progress
    loss = (
        distillation + own_weight * own + weights.length * length + weights.flops * flops + weights.hint * hint
    )  # fmt: skip
    parts = {
        "distillation": distillation.item(), "own": own.item(), "length": length.item(), "hint": hint.item(),
        "active": float((document > 0.005).sum(1).float().mean()),
        "expanded": float((expansion > 0.005).sum(1).float().mean()),
    }  # fmt: skip
    return loss, parts


def adaptation_loss(logits: Tensor, following: Tensor) -> Tensor:
    """Return CSPLADE's adaptation objective: next-token cross-entropy, of the logits and of ``log1p(relu(logits))``.

    The second makes the positive part of the logits alone predict, as the sparse head will need it (section 3.1).
    """
    positive = torch.log1p(torch.relu(logits))
    return functional.cross_entropy(logits, following) + functional.cross_entropy(positive, following)

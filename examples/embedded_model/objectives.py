"""The losses: distillation within the batch, and the weights of a document's own terms and of all others.

After SPLADE-v3's distillation (Lassance et al., 2024) and inference-free queries (Geng et al., 2024).
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

BELOW_ZERO = 0.1  # weight of an error where neither the weight nor its target is above 0


@dataclass(frozen=True)
class Weights:
    """How much each part of the loss counts.

    Attributes:
        own: squared error of the weights of a document's own terms.
        expansion: the same for all other terms.
        stray: expansions at a position of the text, where only own terms belong.
        lexical, semantic, label: the teacher's logits are this times BM25, cosine and being a pair.
    """

    own: float = 5.0
    expansion: float = 0.008
    stray: float = 0.05
    lexical: float = 0.5
    semantic: float = 40.0
    label: float = 1.0


@dataclass
class Batch:
    """What the losses need to know of the texts of a batch.

    Attributes:
        query_counts: how often each term occurs in each query, ``[pairs, vocabulary]``.
        own_weights: BM25-like weights of each text's own terms, ``[texts, vocabulary]``: of the passages, and of some
            short texts after them.
        present: which terms occur in each text, bool ``[texts, vocabulary]``.
        expansions: what the sentence encoder would have each term weigh, below 0 for most, ``[texts, vocabulary]``.
        cosine: the sentence encoder's cosines, query by document.
        same: which documents answer which queries, ``[pairs, pairs]``.
    """

    query_counts: Tensor
    own_weights: Tensor
    present: Tensor
    expansions: Tensor
    cosine: Tensor
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


def signed_weights(logits: Tensor) -> Tensor:
    """Return ``log1p(relu(logits))``, and below zero the logit itself, so that a lost term finds its way back."""
    return torch.where(logits > 0, torch.log1p(logits.clamp(min=0)), logits)


def retrieval_loss(
    logits: Tensor,
    stray: Tensor,
    sampled: Tensor,
    table: Tensor,
    initial_table: Tensor,
    temperature: Tensor,
    batch: Batch,
    weights: Weights,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch and its parts.

    Args:
        logits: logit of each term in each text, ``[texts, vocabulary]``.
        stray: largest logit of the sampled terms at the positions of the text, ``[texts, sampled]``.
        sampled: which terms these are, ``[sampled]``.
        table: query weights being learnt, ``[vocabulary]``.
        initial_table: query weights that the targets were made with, 0 for stop-words, ``[vocabulary]``.
        temperature: factor on the scores before their softmax.
        batch: the batch.
        weights: weights of the parts.
    """
    document = torch.log1p(torch.relu(logits)) * (initial_table > 0)
    passages = len(batch.query_counts)
    scores = (batch.query_counts * table) @ document[:passages].T * temperature
    lexical = (batch.query_counts * initial_table) @ batch.own_weights[:passages].T / IDF_FACTOR
    teacher = weights.lexical * lexical + weights.semantic * batch.cosine + weights.label * batch.same
    distillation = functional.kl_div(
        functional.log_softmax(scores, 1), functional.log_softmax(teacher, 1), log_target=True, reduction="batchmean"
    )
    # An error counts by how much it moves the score of a query that has the term.
    importance = initial_table
    wanted = torch.where(batch.present, batch.own_weights + batch.expansions.clamp(min=0), batch.expansions)
    signed = signed_weights(logits)
    # How far below zero a term lies is of little interest, and of none where it lies below what is asked for.
    below = (wanted <= 0) & (signed <= 0)
    error = functional.smooth_l1_loss(signed, wanted, reduction="none") * importance
    error = torch.where(below, BELOW_ZERO * error * (signed > wanted), error)
    own = (error * batch.present).sum(1).mean() / batch.present.sum(1).float().mean()
    expansion = (error * ~batch.present).sum(1).mean()
    excess = torch.relu(signed_weights(stray) - wanted[:, sampled].clamp(min=0))
    spill = (excess.square() * importance[sampled]).sum(1).mean() * (len(table) / len(sampled))
    loss = distillation + weights.own * own + weights.expansion * expansion + weights.stray * spill
    nothing = functional.smooth_l1_loss(torch.zeros_like(wanted), wanted.clamp(min=0), reduction="none") * importance
    expanded = document * ~batch.present
    parts = {
        "distillation": distillation.item(), "own": own.item(), "expansion": expansion.item(),
        "of none": expansion.item() / (nothing * ~batch.present).sum(1).mean().item(), "stray": spill.item(),
        "active": float((document > 0.005).sum(1).float().mean()),
        "expanded": float((expanded > 0.005).sum(1).float().mean()),
    }  # fmt: skip
    return loss, parts

"""A document's own terms held near the weights that BM25 gives them, as pure functions of a batch.

A language model's output layer speaks of the words that come next, which its text's own words seldom are. Retrieval
stands on own words, though; where they are held near BM25's weights, training is left to find out what else to add.
"""

from __future__ import annotations

import torch
from torch import Tensor

K1, B = 0.9, 0.4  # Pyserini's defaults for passages


def bm25_weights(counts: Tensor, term_weights: Tensor, mean_length: float) -> Tensor:
    """Return each term's weight times BM25's saturation and length factor (Robertson and Zaragoza, 2009, section 3.3).

    With term weights ``sqrt(.3 IDF)`` on both sides, a query's score is .3 times that of BM25.

    Args:
        counts: how often each term occurs in each text, ``[texts, vocabulary]``.
        term_weights: ``[vocabulary]``.
        mean_length: mean number of tokens of the texts of the collection.
    """
    lengths = counts.sum(1, keepdim=True)
    return term_weights * counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / mean_length))


def lexical_error(weights: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over texts of the sum of squared errors of the terms that are wanted.

    Args:
        weights: ``[texts, vocabulary]``.
        wanted: the same shape, 0 for terms that do not matter here.
    """
    return ((weights - wanted).square() * (wanted > 0)).sum(1).mean()


def with_gradient_below_zero(weights: Tensor, logits: Tensor, present: Tensor) -> Tensor:
    """Return the weights as they are, with a gradient for terms of the text itself that lie below zero.

    ``log1p(relu(.))`` has none there, and a text's own term that has no weight would never get one.

    Args:
        weights: ``[texts, vocabulary]``, of `logits`.
        logits: the same shape; not finite where no term is.
        present: which terms occur in the text, bool, the same shape.
    """
    below = torch.where(present & (logits < 0) & torch.isfinite(logits), logits, 0)
    return weights + (below - below.detach())

"""Regularisers that make vectors sparse, as pure functions of a batch of term weights, which are never negative.

All of them take the vectors of the whole batch, those of the other processes included: FLOPs is the square of a mean,
so its value over part of a batch is larger than over all of it, and no average over processes makes up for that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DOCUMENT_FREQUENCY_BORDER = 0.1  # share of the documents at which a term's penalty is half of the full one
DOCUMENT_FREQUENCY_STEEPNESS = 10.0


def ramp(step: int, ramp_steps: int) -> float:
    """Return the factor on the regularisers' weights, ``min((step / ramp_steps)^2, 1)`` (Paria et al., 2020).

    Args:
        step: optimiser steps done. Micro-batches of gradient accumulation do not count.
        ramp_steps: step from which on the factor is 1; 0 for no ramp.
    """
    return 1.0 if step >= ramp_steps else (max(step, 0) / ramp_steps) ** 2


def l1(weights: Tensor) -> Tensor:
    """Return the mean over texts of the sum of a text's weights; `weights` is ``[texts, vocabulary]``."""
    return weights.sum(1).mean()


def flops(weights: Tensor) -> Tensor:
    """Return the sum over terms of the squared mean weight (Paria et al., 2020, arXiv 2004.05665).

    It bounds the expected number of products that a query costs, hence the name: a term that many texts have costs more
    than its share. `weights` is ``[texts, vocabulary]``.
    """
    return weights.mean(0).square().sum()


def df_flops(
    weights: Tensor, border: float = DOCUMENT_FREQUENCY_BORDER, steepness: float = DOCUMENT_FREQUENCY_STEEPNESS
) -> Tensor:
    """Return FLOPs where each term's mean weight is multiplied by a penalty for its document frequency first.

    DF-FLOPS (Porco et al., 2025, arXiv 2505.15070): the sum over terms of ``(penalty * mean weight)^2``, see
    `document_frequency_penalty`. The paper takes the document frequencies from the vectors of its validation set, anew
    every 100 steps; here they are those of the batch itself, so that nothing has to be carried through a resume and
    every process knows the same. A batch of some dozens of documents is needed for them to mean anything. The paper was
    read in summaries and in others' code only; these agree on the penalty, not on whether it is squared too.

    Args:
        weights: ``[texts, vocabulary]``.
        border: share of the texts at which the penalty is a half (the paper's alpha).
        steepness: how sharply it changes there (the paper's beta).
    """
    share = (weights.detach() > 0).to(weights.dtype).mean(0)
    penalty = document_frequency_penalty(share, border, steepness)
    return (penalty * weights.mean(0)).square().sum()


def document_frequency_penalty(
    share: Tensor, border: float = DOCUMENT_FREQUENCY_BORDER, steepness: float = DOCUMENT_FREQUENCY_STEEPNESS
) -> Tensor:
    """Return ``1 / (1 + (share^log_border(2) - 1)^steepness)``: 0 for a term of no text, 1 for a term of all.

    A generalised logistic function (arXiv 2505.15070): a half at ``share = border``.

    Args:
        share: share of the texts that have the term, from 0 to 1, ``[vocabulary]``.
        border: between 0 and 1.
        steepness: positive.
    """
    exponent = math.log(2) / math.log(border)  # negative: a share of 0 gives infinity, hence a penalty of 0
    return 1 / (1 + (share.pow(exponent) - 1).clamp(min=0).pow(steepness))


REGULARISERS = {"flops": flops, "l1": l1, "df-flops": df_flops}


def regularise(kind: str, weights: Tensor, threshold: int | None = None) -> Tensor:
    """Return the regulariser that a run file calls `kind`; 0 for no texts.

    Args:
        kind: one of `REGULARISERS`.
        weights: ``[texts, vocabulary]``.
        threshold: texts with at most this many terms count as if they had none (arXiv 2504.14839, l0 masking): they
            are sparse enough, and are not pressed further.
    """
    if not len(weights):
        return torch.zeros((), device=weights.device)
    if threshold is not None:
        dense_enough = (weights.detach() > 0).sum(1, keepdim=True) > threshold
        weights = weights * dense_enough
    return REGULARISERS[kind](weights)

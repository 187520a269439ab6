"""Top-k pruning of vectors in training, which lets the gradient through."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def keep_top(weights: Tensor, terms: int, kind: Literal["hard", "soft"] = "hard") -> Tensor:
    """Return the vectors with at most `terms` terms each.

    Args:
        weights: term weights, never negative, ``[texts, vocabulary]``.
        terms: how many are kept.
        kind: ``hard`` sets the others to 0, and they get no gradient; ``soft`` is
            ``relu(weight - weight of the first that is dropped)``, which is continuous where two terms change places.
            Its gradient is that of the formula, so the first that is dropped gets one too.

    Returns:
        ``[texts, vocabulary]``. Among equal weights at the border, ``hard`` keeps any, and ``soft`` none.
    """
    if terms >= weights.shape[1]:
        return weights
    if kind == "soft":
        first_dropped = weights.topk(terms + 1, dim=1).values[:, terms:]
        return torch.relu(weights - first_dropped)
    kept = torch.zeros_like(weights, dtype=torch.bool)
    kept.scatter_(1, weights.detach().topk(terms, dim=1, sorted=False).indices, True)
    return weights.masked_fill(~kept, 0)

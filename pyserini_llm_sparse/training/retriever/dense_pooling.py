"""Dense vectors: the hidden states of a text pooled to one vector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def last_token(attention_mask: Tensor) -> Tensor:
    """Return a mask of the last attended position of each text, wherever its padding is."""
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    last = (positions * attention_mask).amax(1, keepdim=True)
    return (positions == last) & (last > 0)


def pooled(hidden: Tensor, kept: Tensor) -> Tensor:
    """Return the mean of the kept states as a vector of length 1; 0 for a text that keeps none."""
    return functional.normalize(_mean(hidden.float(), kept), dim=1)


def normalised_mean(hidden: Tensor, kept: Tensor) -> Tensor:
    """Return the mean of the kept states, each scaled to length 1 before; it is shorter than 1 where they differ.

    As Lion's dense models pool (arXiv 2502.15526, by its repository).
    """
    return _mean(functional.normalize(hidden.float(), dim=2), kept)


def _mean(hidden: Tensor, kept: Tensor) -> Tensor:
    weights = kept.unsqueeze(2).float()
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

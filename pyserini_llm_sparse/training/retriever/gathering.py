"""The vectors of all processes, through which each process's own gradient flows."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes, those of process 0 first; `rows` itself where there is one process only.

    Every process must compute the same loss of what it gets, over all rows, as `RetrievalObjective` does. Then each
    knows the gradient of its own rows without asking the others, and the backward pass sends nothing. That gradient is
    multiplied by the number of processes, for DDP, FSDP and DeepSpeed take the mean of the processes' gradients: what
    they arrive at is the gradient of the one loss.

    Args:
        rows: ``[rows, ...]``, as many in every process.
    """
    if processes() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def processes() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(processes())]
        distributed.all_gather(parts, rows.contiguous())
        start = len(rows) * distributed.get_rank()
        ctx.own = slice(start, start + len(rows))
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[ctx.own] * processes()

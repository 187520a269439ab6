"""Next-token prediction for adaptation, over logits and over sparse weights, without keeping the logits.

CSPLADE (Xu et al., 2025, arXiv 2504.10816, section 3.1) adapts a causal language model with two cross-entropies of the
same targets from one forward pass: of the logits, as in pre-training, and of ``log1p(relu(logits))``, which keeps the
weights that retrieval will use alive. Plainly written they hold several tensors ``[batch, sequence, vocabulary]``; here
logits exist one block at a time, in the forward pass for two sums a position, and again in the backward pass, where a
block's gradient goes into the products at once.

The second needs no exponential: ``exp(log1p(relu(z))) = 1 + relu(z)``, so its softmax denominator over V terms is
``V + sum(relu(z))``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_PER_BLOCK_CPU = 1 << 20  # 4 MB in float32, as in the sparse head
LOGITS_PER_BLOCK_DEVICE = 1 << 26
TERMS_PER_BLOCK_CPU = 8192
TERMS_PER_BLOCK_DEVICE = 1 << 15
NOT_PREDICTED = -100


def next_token_loss(
    hidden: Tensor, head_weight: Tensor, targets: Tensor, sparse_weight: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropies of the logits and of their sparse weights, for ``first + sparse_weight * second``.

    Equal to ``cross_entropy(logits, targets)`` and ``cross_entropy(log1p(relu(logits)), targets)`` with
    ``logits = hidden @ head_weight.T + bias``. Differentiable once in `hidden`, `head_weight` and `bias`, each loss by
    itself. Sums are float32 at least; under autocast the products have its type, as those of a linear layer would.

    Args:
        hidden: last hidden states, ``[batch, sequence, hidden]``.
        head_weight: output embedding, ``[vocabulary, hidden]``.
        targets: token that each position predicts, already shifted; -100 for none, ``[batch, sequence]``.
        sparse_weight: weight of the second in the caller's sum. At 0 it is not computed, and returned as 0.
        bias: optional, ``[vocabulary]``.

    Returns:
        Two scalars, means over the targets; 0 where there is no target.

    Raises:
        ValueError: the shapes do not fit together, or a target is no token of the vocabulary.
    """
    fits = hidden.dim() == 3 and head_weight.dim() == 2 and hidden.shape[2] == head_weight.shape[1]
    fits = fits and targets.shape == hidden.shape[:2] and (bias is None or bias.shape == head_weight.shape[:1])
    if not fits:
        raise ValueError(
            f"next_token_loss: shapes do not fit: hidden {tuple(hidden.shape)}, head {tuple(head_weight.shape)}, "
            f"targets {tuple(targets.shape)}, bias {None if bias is None else tuple(bias.shape)}; give [batch, "
            "sequence, hidden], [vocabulary, hidden], [batch, sequence], [vocabulary]"
        )
    wrong = (targets != NOT_PREDICTED) & ((targets < 0) | (targets >= len(head_weight)))
    if bool(wrong.any()):
        raise ValueError(
            f"next_token_loss: target {int(targets[wrong][0])}: not in the vocabulary of {len(head_weight)} tokens; "
            f"give a token id, or {NOT_PREDICTED} where nothing is predicted"
        )
    losses: tuple[Tensor, Tensor] = _NextTokenLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head_weight, bias, targets, sparse_weight != 0, _product_dtype(hidden, head_weight)
    )
    return losses


def _product_dtype(hidden: Tensor, head_weight: Tensor) -> torch.dtype:
    """The type of the products: autocast's; else that of the wider input; half precision is widened on a CPU."""
    kind = hidden.device.type
    dtype = torch.promote_types(hidden.dtype, head_weight.dtype)
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    if kind == "cpu" and dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32  # exact, and no slower
    return dtype


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _blocks(rows: int, vocabulary: int, device: torch.device) -> Iterator[tuple[slice, list[slice]]]:
    """Yield blocks of terms, each with the blocks of positions that go with it."""
    on_cpu = device.type == "cpu"
    width = min(vocabulary, TERMS_PER_BLOCK_CPU if on_cpu else TERMS_PER_BLOCK_DEVICE)
    height = max(1, (LOGITS_PER_BLOCK_CPU if on_cpu else LOGITS_PER_BLOCK_DEVICE) // max(width, 1))
    positions = [slice(start, min(start + height, rows)) for start in range(0, rows, height)]
    for start in range(0, vocabulary, width):
        yield slice(start, min(start + width, vocabulary)), positions


class _Head:
    """Logits of predicting positions, a block at a time."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> None:
        self.rows = torch.nonzero(targets.flatten() != NOT_PREDICTED)[:, 0]
        self.targets = targets.flatten()[self.rows]
        self.states = hidden.flatten(0, 1)[self.rows].to(dtype)
        self.weight, self.bias, self.dtype = weight, bias, dtype

    def blocks(self) -> Iterator[tuple[slice, Tensor, Iterator[tuple[slice, Tensor, Tensor, Tensor]]]]:
        """Yield (terms, their weights, (positions, logits, target's column, whether it is in the block))."""
        for terms, positions in _blocks(len(self.rows), len(self.weight), self.weight.device):
            weight = self.weight[terms].to(self.dtype)
            yield terms, weight, (self._block(part, terms, weight) for part in positions)

    def scattered(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Put ``[predicting positions, hidden]`` where the positions stand in `shape`, 0 elsewhere."""
        if len(rows) == shape[0] * shape[1]:
            return rows.view(shape)
        return rows.new_zeros(shape[0] * shape[1], shape[2]).index_copy_(0, self.rows, rows).view(shape)

    def _block(self, part: slice, terms: slice, weight: Tensor) -> tuple[slice, Tensor, Tensor, Tensor]:
        logits = (self.states[part] @ weight.T).to(_sum_dtype(self.dtype))
        if self.bias is not None:
            logits += self.bias[terms].to(logits.dtype)
        column = self.targets[part, None] - terms.start
        inside = (column >= 0) & (column < terms.stop - terms.start)
        return part, logits, column.clamp(0, terms.stop - terms.start - 1), inside


class _NextTokenLoss(torch.autograd.Function):
    """Both losses; the backward pass computes the blocks of logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        with_sparse: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        sums = _sum_dtype(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            head = _Head(hidden, weight, bias, targets, dtype)
            logarithm = torch.full((len(head.rows),), -torch.inf, dtype=sums, device=hidden.device)
            rectified = torch.full_like(logarithm, len(weight))
            target_logit = torch.zeros_like(logarithm)
            for _, _, parts in head.blocks():
                for part, logits, column, inside in parts:
                    target_logit[part] += (logits.gather(1, column) * inside)[:, 0]
                    logarithm[part] = torch.logaddexp(logarithm[part], logits.logsumexp(1))
                    if with_sparse:
                        rectified[part] += logits.relu_().sum(1)
            count = max(len(head.rows), 1)
            first = (logarithm - target_logit).sum() / count
            second = (rectified.log() - target_logit.relu().log1p()).sum() / count
        if not with_sparse:
            second = torch.zeros_like(first)
        ctx.save_for_backward(hidden, weight, bias, targets, logarithm, rectified)
        ctx.with_sparse, ctx.dtype = with_sparse, dtype
        return first, second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_first: Tensor, to_second: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, logarithm, rectified = ctx.saved_tensors
        sums = _sum_dtype(ctx.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            head = _Head(hidden, weight, bias, targets, ctx.dtype)
            # The losses' own scale (that of fp16, say) is left out of the products, where it might overflow.
            scale = torch.maximum(to_first.abs(), to_second.abs()).clamp(min=torch.finfo(sums).tiny)
            first, second = to_first / scale, to_second / scale
            scale = scale / max(len(head.rows), 1)
            to_hidden = torch.zeros_like(head.states, dtype=sums) if ctx.needs_input_grad[0] else None
            to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
            to_bias = torch.zeros_like(bias, dtype=sums) if ctx.needs_input_grad[2] else None
            for terms, block_weight, parts in head.blocks():
                to_block = torch.zeros(block_weight.shape, dtype=sums, device=hidden.device)
                for part, logits, column, inside in parts:
                    rectified_sum = rectified[part] if ctx.with_sparse else None
                    gradient = _gradient(logits, column, inside, logarithm[part], rectified_sum, first, second)
                    if to_bias is not None:
                        to_bias[terms] += gradient.sum(0)
                    gradient = gradient.to(ctx.dtype)
                    if to_hidden is not None:
                        _add_product(to_hidden[part], gradient, block_weight)
                    if to_weight is not None:
                        _add_product(to_block, gradient.T, head.states[part])
                if to_weight is not None:
                    to_weight[terms] = to_block.mul_(scale).to(weight.dtype)
            if to_hidden is not None:
                to_hidden = head.scattered(to_hidden.mul_(scale).to(hidden.dtype), hidden.shape)
            if to_bias is not None:
                to_bias = to_bias.mul_(scale).to(bias.dtype)
        return to_hidden, to_weight, to_bias, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to `total`, without a copy of the product where the types agree."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _gradient(
    logits: Tensor,
    column: Tensor,
    inside: Tensor,
    logarithm: Tensor,
    rectified: Tensor | None,
    first: Tensor,
    second: Tensor,
) -> Tensor:
    """Return the gradient of a block's logits, ``first * (softmax - target)`` and the like of the second."""
    target_logit = logits.gather(1, column)
    at_target = -first.expand_as(target_logit)
    gradient = (logits - logarithm[:, None]).exp_().mul_(first)
    if rectified is not None:
        # d log(V + sum relu(z)) = [z > 0] / (V + sum relu(z)); d log1p(relu(z)) = [z > 0] / (1 + z).
        gradient += (logits > 0) * (second / rectified)[:, None]
        at_target = at_target - torch.where(target_logit > 0, second / (1 + target_logit.relu()), 0)
    return gradient.scatter_add_(1, column, at_target * inside)

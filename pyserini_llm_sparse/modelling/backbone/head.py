"""The sparse head: the largest logit of every term over a text's positions, without keeping the logits.

A text's weight for a term is ``log1p(relu(max over positions of hidden @ head_weight.T))`` (SPLADE-max,
Formal et al., 2021; for causal language models, CSPLADE, Xu et al., 2025). With a vocabulary of 100,000
terms the logits of one batch take gigabytes, so they are computed in blocks that fit a processor's cache,
each block is reduced to its maximum at once, and the backward pass touches only the terms that received
a gradient, at the one position that won.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyserini_llm_sparse.system import multiplies_bfloat16

LOGITS_PER_BLOCK_CPU = 1 << 20  # 4 MB in float32: stays in the cache between the product and the maximum
LOGITS_PER_BLOCK_DEVICE = 1 << 26  # 256 MB in float32: few, large products
TERMS_PER_BLOCK = 8192
GRADIENT_ROWS_PER_BLOCK = 1 << 15  # rows of width `hidden` that the backward pass holds at a time

_multiplies_bfloat16 = cache(multiplies_bfloat16)  # which reads a file


def max_logits(
    hidden: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Return, for every text and term, the largest logit over the text's pooled positions.

    Equal to ``(hidden @ (weight - shift).T + bias)`` with masked positions at minus infinity, reduced by a
    maximum over positions, but no tensor of shape ``[batch, sequence, vocabulary]`` exists in either direction.
    Differentiable once in `hidden`, `weight`, `bias` and `shift`; among equal maxima one position gets the gradient.

    Args:
        hidden: last hidden states, ``[batch, sequence, hidden]``.
        weight: rows of the output embedding, ``[vocabulary, hidden]``.
        mask: ``[batch, sequence]``, true (or non-zero) where a position is pooled.
        bias: optional, ``[vocabulary]``.
        shift: optional, ``[hidden]``, of a calibrated head.

    Returns:
        ``[batch, vocabulary]``; float32 for half precision input, else the dtype of `hidden`. A text whose
        positions are all masked gets 0 for every term.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check_shapes(hidden, weight, mask, bias)
    pooled = mask.bool()
    needs_gradient = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias, shift)
    )
    if needs_gradient:
        maxima: Tensor = _MaxLogits.apply(hidden, weight, pooled, bias, shift)  # type: ignore[no-untyped-call]
        return maxima
    return _forward(hidden, weight, pooled, bias, shift, with_positions=False)[0]


def fold_terms(max_logits: Tensor, allowed: Tensor, term_of: Tensor | None) -> Tensor:
    """Return the largest logit of each term: of all tokens that belong to it and are allowed, at the one that stands.

    Args:
        max_logits: ``[batch, vocabulary]``, of tokens.
        allowed: bool ``[vocabulary]``, true for tokens that count.
        term_of: int64 ``[vocabulary]``, the token that stands for the term of each; None where each is its own.

    Returns:
        ``[batch, vocabulary]``; minus infinity where no term stands.
    """
    counted = max_logits.masked_fill(~allowed, -torch.inf)
    if term_of is None:
        return counted
    places = term_of.expand_as(counted)
    return torch.full_like(counted, -torch.inf).scatter_reduce(1, places, counted, "amax")


def activate(max_logits: Tensor, scale: float = 1.0) -> Tensor:
    """Return term weights ``log1p(relu(scale * max_logits))``, never negative (SPLADE, equation 1)."""
    return torch.log1p(torch.relu(max_logits * scale if scale != 1.0 else max_logits))


def _check_shapes(hidden: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None) -> None:
    fits = (
        hidden.dim() == 3
        and weight.dim() == 2
        and hidden.shape[2] == weight.shape[1]
        and mask.shape == hidden.shape[:2]
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        shapes = [tuple(tensor.shape) for tensor in (hidden, weight, mask)]
        bias_shape = None if bias is None else tuple(bias.shape)
        raise ValueError(
            f"max_logits: shapes do not fit: hidden {shapes[0]}, weight {shapes[1]}, mask {shapes[2]}, "
            f"bias {bias_shape}; give [batch, sequence, hidden], [vocabulary, hidden], [batch, sequence], "
            "[vocabulary]"
        )


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of the products: on a CPU without instructions for it half precision is widened, which is no slower.

    In bfloat16 a logit is summed in float32 and rounded once, to 8 bits: 1 part in 256 is the most that it is off.
    """
    if hidden.device.type != "cpu" or hidden.dtype not in (torch.float16, torch.bfloat16):
        return hidden.dtype
    return torch.bfloat16 if hidden.dtype == torch.bfloat16 and _multiplies_bfloat16() else torch.float32


def _result_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float32 if hidden.dtype in (torch.float16, torch.bfloat16) else hidden.dtype


def _groups(pooled: Tensor, terms: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Yield (texts, positions): runs of texts whose block of logits fits `budget`, padding trimmed.

    A run shares one range of positions, from the first to the last that any of its texts pools; texts
    without any pooled position are never part of a result and may be dropped with their run.
    """
    sequence = pooled.shape[1]
    positions = torch.arange(sequence, device=pooled.device)
    first = torch.where(pooled, positions, sequence).amin(1).tolist()
    last = torch.where(pooled, positions + 1, 0).amax(1).tolist()
    start = 0
    while start < len(first):
        low, high, stop = first[start], last[start], start + 1
        while stop < len(first):
            wider_low, wider_high = min(low, first[stop]), max(high, last[stop])
            if (stop + 1 - start) * max(wider_high - wider_low, 1) * terms > budget:
                break
            low, high, stop = wider_low, wider_high, stop + 1
        if high > low:
            yield slice(start, stop), slice(low, high)
        start = stop


def _forward(
    hidden: Tensor,
    weight: Tensor,
    pooled: Tensor,
    bias: Tensor | None,
    shift: Tensor | None,
    with_positions: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the maxima and, where asked, the winning positions (int32, -1 in a fully masked row)."""
    batch, sequence, _ = hidden.shape
    vocabulary = weight.shape[0]
    maxima = torch.zeros(batch, vocabulary, dtype=_result_dtype(hidden), device=hidden.device)
    winners = torch.full_like(maxima, -1, dtype=torch.int32) if with_positions else None
    if batch == 0 or sequence == 0:
        return maxima, winners
    budget = LOGITS_PER_BLOCK_CPU if hidden.device.type == "cpu" else LOGITS_PER_BLOCK_DEVICE
    terms_per_block = max(256, min(TERMS_PER_BLOCK, budget // sequence))
    dtype = _product_dtype(hidden)
    groups = [
        (texts, positions, None if bool(pooled[texts, positions].all()) else ~pooled[texts, positions])
        for texts, positions in _groups(pooled, min(terms_per_block, vocabulary), budget)
    ]
    empty = ~pooled.any(1)
    # The dtype is decided above: autocast would narrow products on a CPU that the backward pass does not narrow.
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, vocabulary, terms_per_block):
            terms = slice(start, min(start + terms_per_block, vocabulary))
            block_weight = (weight[terms] if shift is None else weight[terms].to(shift.dtype) - shift).to(dtype)
            for texts, positions, dropped in groups:
                states = hidden[texts, positions].to(dtype)
                # Terms by positions, so that the maximum runs along contiguous memory.
                logits = (block_weight @ states.flatten(0, 1).T).view(-1, *states.shape[:2])
                if dropped is not None:
                    logits.masked_fill_(dropped, -torch.inf)
                if winners is None:
                    maxima[texts, terms] = logits.amax(2).T.to(maxima.dtype)
                else:
                    largest, position = logits.max(2)
                    maxima[texts, terms] = largest.T.to(maxima.dtype)
                    winners[texts, terms] = (position.T + positions.start).to(torch.int32)
            if bias is not None:
                maxima[:, terms] += bias[terms].to(maxima.dtype)  # the same at every position
    maxima[empty] = 0
    if winners is not None:
        winners[empty] = -1
    return maxima, winners


class _MaxLogits(torch.autograd.Function):
    """The maximum with its own backward: sparse in the terms, one position each."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, pooled: Tensor, bias: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        maxima, winners = _forward(hidden, weight, pooled, bias, shift, with_positions=True)
        ctx.save_for_backward(hidden, weight, winners, shift)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return maxima

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, winners, shift = ctx.saved_tensors
        sequence, width = hidden.shape[1:]
        text, term = torch.nonzero((gradient != 0) & (winners >= 0), as_tuple=True)
        value = gradient[text, term].to(_result_dtype(hidden))
        row = text * sequence + winners[text, term]
        to_hidden = to_weight = to_bias = to_shift = None
        rows = hidden.shape[0] * sequence
        # A row's share in all terms: what the vector that is subtracted from each of them does to it, and it to that.
        shares = None if shift is None else value.new_zeros(rows).index_add_(0, row, value)
        if ctx.needs_input_grad[0]:
            to_hidden = _scatter(row, rows, weight, term, value)
            if shift is not None and shares is not None:
                to_hidden -= shares[:, None] * shift.to(value.dtype)
            to_hidden = to_hidden.view(hidden.shape).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            flat = hidden.reshape(-1, width)
            to_weight = _scatter(term, weight.shape[0], flat, row, value).to(weight.dtype)
        if ctx.bias_dtype is not None and ctx.needs_input_grad[3]:
            to_bias = value.new_zeros(weight.shape[0]).index_add_(0, term, value).to(ctx.bias_dtype)
        if shift is not None and shares is not None and ctx.needs_input_grad[4]:
            to_shift = -(shares @ hidden.reshape(-1, width).to(value.dtype)).to(shift.dtype)
        return to_hidden, to_weight, None, to_bias, to_shift


def _scatter(target: Tensor, targets: int, source: Tensor, rows: Tensor, value: Tensor) -> Tensor:
    """Return ``[targets, width]`` with ``value * source[rows]`` added at the rows `target`."""
    result = value.new_zeros(targets, source.shape[1])
    for start in range(0, len(target), GRADIENT_ROWS_PER_BLOCK):
        part = slice(start, start + GRADIENT_ROWS_PER_BLOCK)
        result.index_add_(0, target[part], source[rows[part]].to(value.dtype) * value[part, None])
    return result

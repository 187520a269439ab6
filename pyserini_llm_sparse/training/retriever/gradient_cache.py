"""Gradient caching (Gao et al., 2021, arXiv 2101.06983): a contrastive batch larger than the memory.

The vectors of the whole batch are computed first, a few texts at a time and without a graph. The loss then has a
gradient with respect to the vectors; and a second forward pass, again a few texts at a time, carries it on to the
weights. The sum over all texts is the gradient of the whole batch, for twice the forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SIDES = ("query", "document")


def cached_backward(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    size: int,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    backward: Callable[[Tensor], None],
    *,
    deferred: Callable[[], AbstractContextManager[Any]] = nullcontext,
    queries_at_once: bool = False,
) -> Tensor:
    """Add the gradient of a batch to the weights, and return its loss.

    Texts of similar length go through the model together, without the padding that they do not need. Both passes draw
    the same dropout.

    Args:
        model: A `RetrievalModel`, perhaps wrapped for several processes.
        inputs: A batch, as `RetrievalCollator` makes it.
        size: Most texts that go through the model at a time.
        loss_of: Gives the loss of the vectors of queries and documents.
        backward: Does the backward pass of a loss, as ``accelerator.backward``.
        deferred: Makes the context of all forward and backward passes but the last, as DDP's ``no_sync``.
        queries_at_once: Whether all queries go with the last documents, for inference-free queries: these cost nothing,
            and DDP wants each weight, their table included, in the pass in which it exchanges gradients.
    """
    parts = list(_parts(inputs, size, queries_at_once))
    vectors: dict[str, Tensor] = {}
    states = []
    with torch.no_grad():
        for part in parts:
            states.append(_RandomState.now())
            for side, found in part.through(model).items():
                if side not in vectors:
                    vectors[side] = found.new_empty(len(inputs[f"{side}_input_ids"]), found.shape[1])
                vectors[side][part.rows[side]] = found
    queries, documents = (vectors.pop(side).requires_grad_() for side in SIDES)
    loss = loss_of(queries, documents)
    gradients = dict(zip(SIDES, torch.autograd.grad(loss, (queries, documents)), strict=True))
    del queries, documents
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        is_last = number == len(parts) - 1
        with nullcontext() if is_last else deferred():
            with state.again():
                again = part.through(model)
            products = [(found * gradients[side][part.rows[side]]).sum() for side, found in again.items()]
            backward(torch.stack(products).sum())
    return loss.detach()


@dataclass(frozen=True)
class _Part:
    """Some texts of a batch: what the model takes, and which rows they are on their side."""

    inputs: dict[str, Tensor]
    rows: dict[str, Tensor]

    def through(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the vectors of the sides that are there."""
        both = dict(zip(SIDES, model(**self.inputs), strict=True))
        return {side: both[side] for side in self.rows}


def _parts(inputs: Mapping[str, Tensor], size: int, queries_at_once: bool) -> Iterator[_Part]:
    """Cut a batch into parts of at most `size` texts, the longest first."""
    query_parts = list(_side_parts(inputs, "query", len(inputs["query_input_ids"]) if queries_at_once else size))
    document_parts = list(_side_parts(inputs, "document", size))
    if queries_at_once:
        last = document_parts.pop()
        queries = query_parts.pop()
        document_parts.append(_Part({**queries.inputs, **last.inputs}, {**queries.rows, **last.rows}))
    yield from query_parts
    yield from document_parts


def _side_parts(inputs: Mapping[str, Tensor], side: str, size: int) -> Iterator[_Part]:
    names = [f"{side}_{name}" for name in ("input_ids", "attention_mask", "pool_mask")]
    mask = inputs[f"{side}_attention_mask"]
    for rows in mask.sum(1).argsort(descending=True, stable=True).split(size):
        used = torch.nonzero(mask[rows].any(0))[:, 0]
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
        yield _Part({name: inputs[name][rows, columns] for name in names}, {side: rows})


@dataclass(frozen=True)
class _RandomState:
    """The state of the random number generators that dropout draws from."""

    cpu: Tensor
    device: Tensor | None

    @classmethod
    def now(cls) -> _RandomState:
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers once more, and afterwards go on as if nothing had been drawn."""
        before = self.now()
        self._set()
        try:
            yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device)

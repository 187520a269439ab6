"""Documents of a batch that may not count as a query's negatives: those judged relevant to it, and second copies.

Texts are compared by their keys, `data.examples.text_key`. All is done on the device, in tensors whose shapes follow
from the batch's alone, so that no step waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def holds(sets: Tensor, keys: Tensor) -> Tensor:
    """Say which keys are in which sets.

    Args:
        sets: int64 ``[sets, most]``, each in ascending order; a smaller set repeats its last key.
        keys: int64 ``[keys]``.

    Returns:
        bool ``[sets, keys]``.
    """
    if sets.shape[1] == 1:
        return sets == keys
    wanted = keys.expand(len(sets), -1).contiguous()
    places = torch.searchsorted(sets.contiguous(), wanted, out_int32=True).clamp_(max=sets.shape[1] - 1)
    return sets.gather(1, places.long()) == wanted


def repeated(keys: Tensor) -> Tensor:
    """Say which keys stand earlier in their row already.

    Args:
        keys: int64 ``[..., keys]``.

    Returns:
        bool, the same shape: false for the first of equal keys, true for the others.
    """
    ordered, places = keys.sort(dim=-1, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return torch.zeros_like(again).scatter(-1, places, again)


def not_negatives(query_keys: Tensor, document_keys: Tensor, relevant: Tensor) -> Tensor:
    """Say which documents of a batch may not be taken as a query's negatives.

    These are all that are relevant to it, or to another row's equal query, and the second and further copies of a text.

    Args:
        query_keys: equal for equal queries, ``[queries]``.
        document_keys: equal for equal texts, ``[queries * (1 + negatives)]``, each query's own in a row, the positive
            first.
        relevant: which documents are judged relevant to which query, bool ``[queries, documents]``.

    Returns:
        ``[queries, documents]``, true for such a document; false for the query's own positive itself.
    """
    found = _of_equal_queries(query_keys, relevant) | repeated(document_keys)
    columns = torch.arange(len(document_keys), device=found.device)
    return found & (positive_columns(len(query_keys), document_keys)[:, None] != columns)


def above_margin(document_keys: Tensor, teacher_scores: Tensor, margin: float) -> Tensor:
    """Say which documents the teacher holds for about as relevant to a query as its positive.

    Args:
        document_keys: as in `not_negatives`.
        teacher_scores: of each query's own documents, ``[queries, 1 + negatives]``.
        margin: a document is meant whose score is above the positive's less this.

    Returns:
        bool ``[queries, documents]``: such documents of the query's own, wherever in the batch their text stands.
    """
    own = document_keys.view(teacher_scores.shape)
    meant = torch.where(teacher_scores > teacher_scores[:, :1] - margin, own, own[:, :1])
    return holds(meant.sort(dim=1).values, document_keys)


def own_not_negatives(query_keys: Tensor, document_keys: Tensor, relevant: Tensor) -> Tensor:
    """Say the same of each query's own documents alone, ``[queries, 1 + negatives]``; arguments of `not_negatives`.

    A text counts as a copy only of one in its own row.
    """
    own = own_columns(_of_equal_queries(query_keys, relevant)) | own_repeated(len(query_keys), document_keys)
    own[:, 0] = False
    return own


def own_repeated(queries: int, document_keys: Tensor) -> Tensor:
    """Say which of each query's own documents are copies of one before, ``[queries, 1 + negatives]``."""
    return repeated(document_keys.view(queries, -1))


def own_columns(of_batch: Tensor) -> Tensor:
    """Return of ``[queries, queries * n]`` what belongs to each query's own documents, ``[queries, n]``."""
    rows = torch.arange(len(of_batch), device=of_batch.device)
    return of_batch.view(len(rows), len(rows), -1)[rows, rows]


def positive_columns(queries: int, document_keys: Tensor) -> Tensor:
    """Return the columns of the positives, ``[queries]``."""
    each = len(document_keys) // max(queries, 1)
    return torch.arange(queries, device=document_keys.device) * each


def _of_equal_queries(query_keys: Tensor, relevant: Tensor) -> Tensor:
    """Give each row what is relevant to any row of the same query."""
    first = (query_keys[:, None] == query_keys).int().argmax(1)  # the first such row, for each
    together = torch.zeros_like(relevant, dtype=torch.int32).index_add_(0, first, relevant.int())
    return together[first] > 0

"""Puts pairs into batches of topical groups, so that the other documents of a batch are hard to tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from objectives import Batch, own_term_weights, term_counts
from torch import Tensor
from training_text import Pair

WINDOW = 4096  # pairs among which groups are formed
GROUP = 16


@dataclass
class TrainingSet:
    """Tokenised pairs with what the teacher said.

    Attributes:
        pairs: the texts.
        queries, documents: their token ids.
        query_embeddings, document_embeddings: the sentence encoder's, float16 ``[pairs, 384]``.
        embedded: which pairs have embeddings.
    """

    pairs: Sequence[Pair]
    queries: Sequence[np.ndarray]
    documents: Sequence[np.ndarray]
    query_embeddings: np.ndarray
    document_embeddings: np.ndarray
    embedded: np.ndarray


def topical_groups(vectors: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Halve the rows along their main direction until groups of at most `GROUP` are left."""
    if len(rows) <= GROUP:
        return [rows]
    part = vectors[rows] - vectors[rows].mean(0)
    direction = _main_direction(part)
    order = rows[np.argsort(part @ direction)]
    middle = max(GROUP, round(len(order) / 2 / GROUP) * GROUP)
    return topical_groups(vectors, order[:middle]) + topical_groups(vectors, order[middle:])


def _main_direction(part: np.ndarray) -> np.ndarray:
    direction = part[np.square(part).sum(1).argmax()]
    for _ in range(8):  # power iteration is exact enough for halving
        direction = part.T @ (part @ direction)
        direction /= np.linalg.norm(direction) + 1e-9
    return direction


def document_vectors(documents: Sequence[np.ndarray], embedding: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the mean term vector of each document, weighted by the query table: its topic, for nothing."""
    vectors = np.stack([table[ids] @ embedding[ids] if len(ids) else embedding[0] * 0 for ids in documents])
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)


def batches(
    training: TrainingSet, embedding: np.ndarray, table: np.ndarray, size: int, seed: int, first: int = 0
) -> Iterator[np.ndarray]:
    """Yield the places of the pairs of each batch, for ever; a batch has embeddings for all its pairs or for none.

    Args:
        training: the pairs.
        embedding: term vectors ``[vocabulary, dimensions]``.
        table: weights of the terms in a document's topic.
        size: pairs of a batch, a multiple of `GROUP`.
        seed: seed of all order.
        first: how many batches to skip, for resuming.
    """
    generator = np.random.default_rng(seed)
    skipped = 0
    while True:
        kinds = [generator.permutation(np.flatnonzero(training.embedded == kind)) for kind in (True, False)]
        windows = [part[start : start + WINDOW] for part in kinds for start in range(0, len(part), WINDOW)]
        for place in generator.permutation(len(windows)):
            rows = windows[place]
            rows = rows[: len(rows) // size * size]
            count = len(rows) // size
            order = generator.permutation(len(rows) // GROUP)
            if skipped + count <= first:
                skipped += count
                continue
            vectors = document_vectors([training.documents[row] for row in rows], embedding, table)
            groups = topical_groups(vectors, np.arange(len(rows)))
            mixed = [groups[place] for place in order]
            per_batch = size // GROUP
            for start in range(0, len(mixed), per_batch):
                skipped += 1
                if skipped > first:
                    yield rows[np.concatenate(mixed[start : start + per_batch])]


def assemble(
    training: TrainingSet, rows: np.ndarray, longest: int, table: Tensor, average_length: float
) -> tuple[list[np.ndarray], Batch]:
    """Return the documents' token ids, cut, and what the losses need."""
    vocabulary = len(table)
    documents = [training.documents[row][: longest - 1] for row in rows]
    counts = term_counts(documents, vocabulary)
    present = (counts > 0).float()
    # Saturation and length come from the part that the model reads; a term further down is an expansion.
    own = own_term_weights(counts, table, average_length)
    cosine = None
    if training.embedded[rows].all():
        queries = torch.from_numpy(training.query_embeddings[rows].astype(np.float32))
        cosine = queries @ torch.from_numpy(training.document_embeddings[rows].astype(np.float32)).T
    texts = [training.pairs[row] for row in rows]
    same = torch.tensor(
        [[one.query == other.query or one.passage == other.passage for other in texts] for one in texts]
    ).float()
    query_counts = term_counts([training.queries[row] for row in rows], vocabulary)
    return documents, Batch(query_counts, own, present, cosine, same)

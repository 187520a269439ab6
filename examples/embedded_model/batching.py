"""Puts pairs into batches of topical groups, so that the other documents of a batch are hard to tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from expansion_targets import ExpansionTargets
from objectives import Batch, own_term_weights, term_counts
from torch import Tensor
from training_text import Pair

WINDOW = 4096  # pairs among which groups are formed
GROUP = 16
SHORT_EVERY = 8  # one query in so many, and one beginning of a document, are encoded besides
SHORT_LENGTHS = (4, 40)  # tokens of such a beginning


@dataclass
class TrainingSet:
    """Tokenised pairs with what the teacher said.

    Attributes:
        pairs: the texts.
        queries, documents: their token ids.
        query_embeddings, document_embeddings: the sentence encoder's, float16 ``[pairs, 384]``.
        rows: places of the pairs that have embeddings: those that are trained on.
        targets: the expansions that an embedding asks for.
    """

    pairs: Sequence[Pair]
    queries: Sequence[np.ndarray]
    documents: Sequence[np.ndarray]
    query_embeddings: np.ndarray
    document_embeddings: np.ndarray
    rows: np.ndarray
    targets: ExpansionTargets


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


def batches(topics: np.ndarray, rows: np.ndarray, size: int, seed: int, first: int = 0) -> Iterator[np.ndarray]:
    """Yield the places of the pairs of each batch, for ever.

    Args:
        topics: a vector for each pair, ``[pairs, dimensions]``.
        rows: places of the pairs to be used.
        size: pairs of a batch, a multiple of `GROUP`.
        seed: seed of all order.
        first: how many batches to skip, for resuming.
    """
    generator = np.random.default_rng(seed)
    skipped = 0
    while True:
        mixed = generator.permutation(rows)
        for start in range(0, len(mixed), WINDOW):
            window = mixed[start : start + WINDOW]
            window = window[: len(window) // size * size]
            order = generator.permutation(len(window) // GROUP)
            if skipped + len(window) // size <= first:
                skipped += len(window) // size
                continue
            groups = topical_groups(topics[window].astype(np.float32), np.arange(len(window)))
            shuffled = [groups[place] for place in order]
            for place in range(0, len(shuffled), size // GROUP):
                skipped += 1
                if skipped > first:
                    yield window[np.concatenate(shuffled[place : place + size // GROUP])]


def assemble(
    training: TrainingSet, rows: np.ndarray, longest: int, table: Tensor, average_length: float
) -> tuple[list[np.ndarray], Batch]:
    """Return token ids, cut, and what the losses need: of the documents, and of some short texts after them.

    Some queries as texts of their own teach the model to encode queries, the other query side that it offers. The
    beginnings of some documents teach it that in a short text a term weighs more.
    """
    generator = np.random.default_rng(rows)
    texts = [training.documents[row][: longest - 1] for row in rows]
    texts += [training.queries[row] for row in rows[::SHORT_EVERY]]
    short = rows[SHORT_EVERY // 2 :: SHORT_EVERY]
    texts += [training.documents[row][: generator.integers(*SHORT_LENGTHS)] for row in short]
    counts = term_counts(texts, len(table))
    # Saturation and length come from the part that the model reads; a term further down is an expansion.
    own = own_term_weights(counts, table, average_length)
    queries, passages = (
        torch.from_numpy(part[rows].astype(np.float32))
        for part in (training.query_embeddings, training.document_embeddings)
    )
    expansions = training.targets(
        torch.cat([passages, queries[::SHORT_EVERY], passages[SHORT_EVERY // 2 :: SHORT_EVERY]])
    )
    pairs = [training.pairs[row] for row in rows]
    same = torch.tensor(
        [[one.query == other.query or one.passage == other.passage for other in pairs] for one in pairs]
    ).float()
    query_counts = term_counts([training.queries[row] for row in rows], len(table))
    return texts, Batch(query_counts, own, counts > 0, expansions, queries @ passages.T, same)

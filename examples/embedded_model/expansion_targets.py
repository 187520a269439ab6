"""What a document's vector should contain besides its own words: expansion weights from a sentence encoder.

The encoder's query side is replaced by a bag of words: ridge regression finds a vector for each term, such that the
weighted mean of a query's term vectors is near the encoder's embedding of the query. The cosine between a query and a
document is then a sum over the query's terms, and each summand, *term vector times document embedding*, is the weight
that the term should have in the document's vector. So all terms of the vocabulary get a target for every document,
where contrastive training tells of one document's few query terms at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor

REGULARISER = 1.0  # pulls a term's vector to the encoder's embedding of the term alone


@dataclass
class ExpansionTargets:
    """Targets as a linear function of a document's embedding.

    Attributes:
        term_vectors: ``[vocabulary, dimensions]``; 0 for stop-words.
        mean: mean embedding of the documents, ``[dimensions]``; a target is about what a document has more of.
        threshold: subtracted from every target, so that only the highest are positive.
    """

    term_vectors: Tensor
    mean: Tensor
    threshold: float

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return targets ``[documents, vocabulary]`` for embeddings ``[documents, dimensions]``, negative for most."""
        return (embeddings - self.mean) @ self.term_vectors.T - self.threshold


def bags_of_words(texts: Sequence[np.ndarray], weights: np.ndarray) -> sparse.csr_array:
    """Return bags of weighted words of unit length, float32 ``[texts, vocabulary]``."""
    rows = np.repeat(np.arange(len(texts)), [len(ids) for ids in texts])
    columns = np.concatenate([*texts, np.zeros(0, dtype=np.int32)])
    bags = sparse.csr_array((weights[columns], (rows, columns)), shape=(len(texts), len(weights)))
    bags.sum_duplicates()
    lengths = np.sqrt(bags.multiply(bags).sum(1)).clip(1e-9)
    return sparse.csr_array(sparse.diags_array(1 / lengths) @ bags)


def fit_term_vectors(
    queries: Sequence[np.ndarray], embeddings: np.ndarray, weights: np.ndarray, alone: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return a vector for each term ``[vocabulary, dimensions]`` and the share of variance that bags explain.

    Args:
        queries: token ids.
        embeddings: the encoder's embeddings of the queries, ``[queries, dimensions]``.
        weights: weight of each term in a bag, 0 for stop-words.
        alone: the encoder's embeddings of each term on its own, ``[vocabulary, dimensions]``, towards which terms
            that are rare in the queries are drawn.
    """
    bags = bags_of_words(queries, weights)
    centre = embeddings.mean(0)
    wanted = embeddings - centre
    prior = (alone - centre) * (weights > 0)[:, None]
    # How far a term's own embedding explains a query that contains it: one factor for all terms.
    guess = bags @ prior
    factor = float((guess * wanted).sum() / np.square(guess).sum())
    rest = wanted - factor * guess
    products = torch.from_numpy((bags.T @ bags).toarray())
    products.diagonal().add_(REGULARISER)
    right = torch.from_numpy(np.asarray(bags.T @ rest))
    correction = torch.cholesky_solve(right, torch.linalg.cholesky(products)).numpy()
    vectors = factor * prior + correction * (weights > 0)[:, None]
    explained = 1 - np.square(wanted - bags @ vectors).sum() / np.square(wanted).sum()
    return vectors, float(explained)

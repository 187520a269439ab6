"""The gate of an export: how far its vectors are from those of torch in float32, and how far they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.records import Document
from pyserini_llm_sparse.modelling.encoding import EncodingCore
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from pyserini_llm_sparse.onnx.export.sample_texts import DOCUMENTS
from pyserini_llm_sparse.onnx.runtime.precision import Precision

SAMPLE_SIZE = 64
WORDS_OF_QUERY = 8  # a query is the beginning of a document
TEXTS_ALONE = 8  # that many are encoded once more by themselves
TOP = 100


@dataclass(frozen=True)
class Difference:
    """How two encoders differ on the same texts, or how far they may.

    Attributes:
        weight_error: Largest absolute difference of a term's weight.
        mean_weight_error: Sum of the absolute differences over the sum of the weights.
        lost_top_terms: Share of a text's 100 heaviest terms that the other does not have among its own 100, on average.
        lost_rank_correlation: 1 less Spearman's correlation of the documents' scores for a query, on average.
        batch_error: Largest absolute difference between a weight that the export gives a text alone and among others.
    """

    weight_error: float
    mean_weight_error: float
    lost_top_terms: float
    lost_rank_correlation: float
    batch_error: float

    def beyond(self, bounds: Difference) -> list[str]:
        """Return each measure that is not within its bound, with both values."""
        found = []
        for field in fields(self):
            value, bound = getattr(self, field.name), getattr(bounds, field.name)
            if not value <= bound:  # what is no number is out of bounds
                found.append(f"{field.name.replace('_', ' ')} {value:.3g}, at most {bound:g}")
        return found

    def as_dict(self) -> dict[str, float]:
        """Return the measures by name."""
        return asdict(self)


# A weight of 0.01 is one impact at the usual factor of 100.
BOUNDS: dict[Precision, Difference] = {
    "fp32": Difference(0.001, 0.0001, 0.005, 0.001, 0.001),
    "fp16": Difference(0.1, 0.005, 0.02, 0.005, 0.02),
    "bf16": Difference(0.5, 0.075, 0.1, 0.05, 0.1),
    "int8": Difference(1.0, 0.075, 0.1, 0.05, 0.05),
    "int4": Difference(2.0, 0.3, 0.3, 0.2, 0.05),
}


def sample_documents(corpus: str | None) -> list[str]:
    """Return the texts to verify with: the first of a corpus, or those that the package brings along.

    Raises:
        ResourceError: The corpus cannot be read.
        DataError: It holds no usable document.
    """
    if corpus is None:
        return list(DOCUMENTS)
    texts: list[str] = []
    for record in read_corpus(corpus):
        if isinstance(record, Document):
            texts.append(record.text)
        if len(texts) == SAMPLE_SIZE:
            break
    if not texts:
        raise DataError(f"{corpus}: no usable document in it: an export cannot be verified with it; name another one")
    return texts


class Comparison:
    """Compares exports with the torch model in float32, whose vectors are made once."""

    def __init__(self, reference: EncodingCore, documents: Sequence[str]) -> None:
        """Encode the texts with the torch model.

        Args:
            reference: Its encoder, without top-k: a term at the cut would look like a large error.
            documents: Texts; their first words are taken as queries.

        Raises:
            DataError: No text has a term, so that nothing can be compared.
        """
        self._documents = documents
        self._queries = [" ".join(text.split()[:WORDS_OF_QUERY]) for text in documents]
        self._expected = reference.encode_documents(documents)
        self._expected_queries = reference.encode_queries(self._queries)
        if not self._expected.matrix.nnz:
            raise DataError(f"{reference.checkpoint.folder}: all vectors are empty: check the model and its spec")

    def difference(self, export: EncodingCore) -> Difference:
        """Return how far the vectors of an export, without top-k, are from those of torch."""
        found, found_queries = export.encode_documents(self._documents), export.encode_queries(self._queries)
        wanted = SparseVectors.concatenate([self._expected, self._expected_queries])
        gap = abs(wanted.matrix - SparseVectors.concatenate([found, found_queries]).matrix)
        alone = [export.encode_documents([text]) for text in self._documents[:TEXTS_ALONE]]
        own_gap = abs(SparseVectors.concatenate(alone).matrix - found[: len(alone)].matrix)
        scores, found_scores = self._expected_queries.dot(self._expected), found_queries.dot(found)
        return Difference(
            weight_error=_largest(gap),
            mean_weight_error=float(gap.sum() / wanted.matrix.sum()),
            lost_top_terms=1 - top_overlap(self._expected, found),
            lost_rank_correlation=1 - rank_correlation(scores, found_scores),
            batch_error=_largest(own_gap),
        )


def top_overlap(expected: SparseVectors, found: SparseVectors, top: int = TOP) -> float:
    """Return which share of a row's heaviest terms is the same in both, averaged over the rows that have terms."""
    shares = []
    for own, other in zip(_term_sets(expected.top_k(top)), _term_sets(found.top_k(top)), strict=True):
        if own or other:
            shares.append(len(own & other) / max(len(own), len(other)))
    return float(np.mean(shares)) if shares else 1.0


def rank_correlation(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Return Spearman's correlation of two arrays of scores ``[queries, documents]``, averaged over the queries."""
    from scipy.stats import rankdata

    correlations = []
    for own, other in zip(expected, found, strict=True):
        if np.ptp(own) == 0 or np.ptp(other) == 0:  # one score for all documents has no order to keep
            correlations.append(float(np.ptp(own) == np.ptp(other)))
            continue
        correlations.append(float(np.corrcoef(rankdata(own), rankdata(other))[0, 1]))
    return float(np.mean(correlations))


def _term_sets(vectors: SparseVectors) -> list[set[int]]:
    matrix = vectors.matrix
    bounds = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    return [set(matrix.indices[start:stop].tolist()) for start, stop in bounds]


def _largest(matrix: Any) -> float:
    return float(matrix.data.max()) if matrix.nnz else 0.0

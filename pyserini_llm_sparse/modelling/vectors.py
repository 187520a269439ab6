"""Sparse vectors: rows over the vocabulary in a SciPy CSR array, from float weights to integer impacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, vstack

from pyserini_llm_sparse.errors import DataError


@dataclass(frozen=True)
class SparseVectors:
    """Vectors over a vocabulary.

    Attributes:
        matrix: CSR array ``[rows, vocabulary]`` of positive float32 weights, or of int32 impacts; column indices are
            sorted in each row and no zero is stored.
    """

    matrix: csr_array

    @classmethod
    def from_dense(cls, weights: ArrayLike) -> SparseVectors:
        """Keep the positive entries of an array ``[rows, vocabulary]``."""
        dense = np.asarray(weights)
        return cls(_clean(csr_array(np.where(dense > 0, dense, 0))))

    @classmethod
    def from_rows(
        cls, ids: Sequence[ArrayLike], weights: Sequence[ArrayLike], vocabulary_size: int, dtype: Any = np.float32
    ) -> SparseVectors:
        """Build rows from their term ids and weights, in any order; weights that are not positive are dropped."""
        lengths = [len(np.asarray(row)) for row in ids]
        indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        indices = np.concatenate([np.asarray(row, dtype=np.int64) for row in ids]) if ids else np.empty(0, np.int64)
        data = np.concatenate([np.asarray(row, dtype=dtype) for row in weights]) if weights else np.empty(0, dtype)
        return cls(_clean(csr_array((data, indices, indptr), shape=(len(lengths), vocabulary_size))))

    @classmethod
    def empty(cls, rows: int, vocabulary_size: int) -> SparseVectors:
        """Return vectors without any term."""
        return cls(csr_array((rows, vocabulary_size), dtype=np.float32))

    @classmethod
    def concatenate(cls, parts: Sequence[SparseVectors]) -> SparseVectors:
        """Put vectors of one vocabulary below each other."""
        return cls(csr_array(vstack([part.matrix for part in parts], format="csr")))

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[np.integer]) -> SparseVectors:
        """Select rows by slice or by positions."""
        return SparseVectors(csr_array(self.matrix[rows if isinstance(rows, slice) else np.asarray(rows, dtype=int)]))

    @property
    def vocabulary_size(self) -> int:
        """The number of columns."""
        return int(self.matrix.shape[1])

    def active_terms(self) -> NDArray[np.int64]:
        """Return the number of terms of each row."""
        return np.diff(self.matrix.indptr).astype(np.int64)

    def top_k(self, k: int | None) -> SparseVectors:
        """Keep the ``k`` heaviest terms of each row; among equal weights the lower id stays. None keeps all."""
        matrix, counts = self.matrix, self.active_terms()
        if k is None or not len(counts) or np.max(counts) <= k:
            return self
        row_of = np.repeat(np.arange(len(counts)), counts)
        # One sort for all rows: by row, then weight downwards, then id.
        order = np.lexsort((matrix.indices, -matrix.data, row_of))
        rank = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], counts)
        kept = np.sort(order[rank < k])
        indptr = np.concatenate(([0], np.cumsum(np.minimum(counts, k))))
        return SparseVectors(csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape))

    def impacts(self, factor: float, maximum: int) -> SparseVectors:
        """Quantise weights to ``min(round(weight * factor), maximum)``; terms whose impact is 0 are dropped.

        Halves go to the even neighbour, as Python's ``round`` and Pyserini's SPLADE encoder do.

        Raises:
            DataError: A weight is infinite or not a number, which an overflow in a 16-bit model can cause.
        """
        if not np.isfinite(self.matrix.data).all():
            raise DataError("vectors: a weight is not finite: the model overflowed; encode with dtype float32")
        quantised = np.minimum(np.rint(self.matrix.data.astype(np.float64) * factor), maximum).astype(np.int32)
        matrix = csr_array((quantised, self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape, copy=True)
        return SparseVectors(_clean(matrix))

    def dot(self, other: SparseVectors) -> NDArray[Any]:
        """Return the scores ``[own rows, other's rows]``; exact in int64 for impacts, float64 for weights."""
        dtype = np.int64 if self.matrix.dtype.kind == other.matrix.dtype.kind == "i" else np.float64
        return np.asarray((self.matrix.astype(dtype) @ other.matrix.astype(dtype).T).toarray())

    def rows(self, terms: NDArray[np.object_]) -> list[dict[str, Any]]:
        """Return each row as ``{term: weight}`` with Python numbers, in the order of the ids.

        Args:
            terms: The term of each column, as in `TermVocabulary.terms`.
        """
        names, values = terms[self.matrix.indices].tolist(), self.matrix.data.tolist()
        bounds = self.matrix.indptr.tolist()
        return [dict(zip(names[start:stop], values[start:stop], strict=True)) for start, stop in pairwise(bounds)]


def _clean(matrix: csr_array) -> csr_array:
    """Drop entries that are not positive and sort the ids of each row, in place."""
    if len(matrix.data) and matrix.data.min() <= 0:
        matrix.data[matrix.data <= 0] = 0
        matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix

"""Vectors of queries that came one by one, kept so that a repeated query goes through the model once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from scipy.sparse import csr_array

from pyserini_llm_sparse.modelling.vectors import SparseVectors

LARGEST = 16 * 2**20  # bytes: two thousand queries of a thousand terms each
_OVERHEAD = 512  # bytes of an entry besides its text and its numbers

Key = tuple[str, int | None]


class QueryCache:
    """The vectors of the queries that were asked for last. Safe to use from several threads.

    Only a query that comes alone is looked up or kept: beside others in a batch, a float may be rounded otherwise, and
    a vector that depended on what was asked before could not be reproduced. Vectors are copied on their way in and out.

    A model whose weights are changed in place needs `clear`.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        """Make an empty cache.

        Args:
            largest: Most bytes that are kept, about; 0 keeps nothing.
        """
        self._largest = largest
        self._bytes = 0
        self._kept: OrderedDict[Key, csr_array] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def vector(self, text: str, max_length: int | None, encode: Callable[[], SparseVectors]) -> SparseVectors:
        """Return a query's vector, as it was kept or else encoded now.

        Args:
            text: The query.
            max_length: Maximum number of tokens of it, as the caller gave it.
            encode: Encodes it, alone, to one row; two threads with the same new query may both call theirs.
        """
        key = (text, max_length)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return SparseVectors(kept.copy())
        vectors = encode()
        self._keep(key, vectors.matrix.copy())
        return vectors

    def clear(self) -> None:
        """Forget all vectors."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _keep(self, key: Key, row: csr_array) -> None:
        """Keep a vector, and drop those that were not asked for the longest time until all fit."""
        with self._lock:
            if (earlier := self._kept.pop(key, None)) is not None:
                self._bytes -= _size(key, earlier)
            self._kept[key] = row
            self._bytes += _size(key, row)
            while self._bytes > self._largest:
                self._bytes -= _size(*self._kept.popitem(last=False))


def _size(key: Key, row: csr_array) -> int:
    """Return about how many bytes an entry takes."""
    return int(row.data.nbytes + row.indices.nbytes + row.indptr.nbytes) + 4 * len(key[0]) + _OVERHEAD

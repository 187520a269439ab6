"""A memory of ids, to find those that occur again: 16 bytes an id, with merging 25 MB a million documents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DIGEST = 16


class SeenIds:
    """The ids seen so far, as sorted arrays of 128-bit digests.

    Arrays grow by merging equals with equals, so that adding n ids costs O(n log² n) and there are O(log n) arrays to
    look in. Two of ten million ids share a digest with a probability below 1e-24.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.bytes_]] = []

    def repeated(self, ids: Sequence[str]) -> list[bool]:
        """Tell for each id whether it occurred before, in an earlier call or earlier in this one; then keep them."""
        if not ids:
            return []
        digests = np.frombuffer(
            b"".join(hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest() for name in ids), dtype=f"V{_DIGEST}"
        ).astype(f"V{_DIGEST}")
        keys = digests.view(f"S{_DIGEST}")
        found = np.zeros(len(keys), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            found |= run[places] == keys
        unique, first = np.unique(keys, return_index=True)
        again = np.ones(len(keys), dtype=bool)
        again[first] = False
        found |= again
        self._add(unique)
        return [bool(value) for value in found]

    def _add(self, run: NDArray[np.bytes_]) -> None:
        """Keep a sorted run, merged with the shorter ones before it."""
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        self._runs.append(run)

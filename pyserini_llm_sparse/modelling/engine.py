"""The engine's protocol: what computes the vectors of tokenised texts, torch or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pyserini_llm_sparse.modelling.tokenization import TokenizedText
from pyserini_llm_sparse.modelling.vectors import SparseVectors

DEVICE_BATCH_TOKENS = 16384  # keeps a GPU busy
THREAD_BATCH_TOKENS = 256  # what a core computes with stays in its caches; more at once is up to twice as slow
LEAST_BATCH_TOKENS = 512


class Engine(Protocol):
    """Computes vectors; one batch at a time.

    Attributes:
        batch_tokens: Padded tokens of a batch at most, where more than one text is in it, for the highest speed.
    """

    batch_tokens: int

    def encode(self, texts: Sequence[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch.

        Args:
            texts: Texts with content, the longest first.
            top_k: Maximum number of terms of a vector, the heaviest; None for all.

        Returns:
            One row for each text.

        Raises:
            DataError: A weight is not finite.
            OutOfMemoryError: The device has not enough memory for the batch.
            LlmSparseError: The engine failed.
        """


class EngineLoader(Protocol):
    """An engine that is chosen and not loaded yet; what was asked for has been checked as far as it can be."""

    @property
    def precision(self) -> str:
        """The number format that the engine will compute in: torch's name of it, or ``onnx`` and an export's.

        Raises:
            LlmSparseError: torch has no such type or device.
        """

    @property
    def device(self) -> str:
        """Where it will run, such as ``cpu`` or ``cuda:0``.

        Raises:
            LlmSparseError: There is no such device.
        """

    def prepare(self) -> Path:
        """Make what must be made before the engine can be loaded: an export, at the first use of a precision.

        Returns:
            The folder of the weights.

        Raises:
            LlmSparseError: It cannot be made.
        """

    def load(self) -> Engine:
        """Load the engine.

        Raises:
            LlmSparseError: The model cannot be loaded.
        """


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that is there already, for an encoder that shares it with another; see `EngineLoader`.

    Attributes:
        loader: What loaded it.
        engine: The engine.
    """

    loader: EngineLoader
    engine: Engine

    @property
    def precision(self) -> str:
        """The number format that it computes in."""
        return self.loader.precision

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.loader.device

    def prepare(self) -> Path:
        """Return the folder of its weights."""
        return self.loader.prepare()

    def load(self) -> Engine:
        """Return the engine."""
        return self.engine


def best_batch_tokens(device_type: str, threads: int) -> int:
    """Return how many padded tokens a batch should have on a device.

    Args:
        device_type: ``cpu``, or what torch or ONNX Runtime call another.
        threads: CPU threads.
    """
    return max(LEAST_BATCH_TOKENS, THREAD_BATCH_TOKENS * threads) if device_type == "cpu" else DEVICE_BATCH_TOKENS

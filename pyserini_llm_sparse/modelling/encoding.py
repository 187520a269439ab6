"""The core of an encoder: texts are tokenised, batched by length and sent through an engine that is handed in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import OutOfMemoryError, UsageError
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.modelling.engine import Engine, EngineLoader
from pyserini_llm_sparse.modelling.query_cache import QueryCache
from pyserini_llm_sparse.modelling.spec import EncodingSpec, Side
from pyserini_llm_sparse.modelling.terms import TermVocabulary
from pyserini_llm_sparse.modelling.tokenization import Tokenization, TokenizedText
from pyserini_llm_sparse.modelling.vectors import SparseVectors

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 32

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TermImpact:
    """A term of a vector, and whether the text itself contains it."""

    term: str
    impact: int
    own: bool


class EncodingCore:
    """Encodes queries and documents with any engine; `encoder.SparseEncoder` finds both by a model's name.

    Safe to use from several threads; the model runs one batch at a time.

    A text's vector does not depend on the texts beside it. None and blank texts have empty vectors.

    Attributes:
        checkpoint: The model's parts, but for its weights.
        loader: The engine that was chosen.
        tokenization: How texts become token ids.
        query_cache: Vectors of queries that came one by one and went through the model.
    """

    def __init__(self, checkpoint: Checkpoint, loader: EngineLoader) -> None:
        """Make an encoder of a checkpoint and an engine, which is loaded at its first use."""
        self.checkpoint = checkpoint
        self.loader = loader
        self.tokenization = Tokenization(checkpoint.tokenizer, checkpoint.spec, checkpoint.vocabulary_size)
        self.query_cache = QueryCache()
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._forward_lock = threading.Lock()
        self._batch_tokens: int | None = None  # as many as the engine likes best, until memory is short

    @property
    def spec(self) -> EncodingSpec:
        """The encoding spec with the model's fingerprint."""
        return self.checkpoint.spec

    @cached_property
    def vocabulary(self) -> TermVocabulary:
        """The terms; ids that never become one (no token, excluded, or folded into another) have none."""
        return TermVocabulary(self.checkpoint.term_names, self.spec.term_naming)

    @property
    def engine(self) -> Engine:
        """What computes the vectors; the model is loaded, or exported and loaded, at the first use.

        Raises:
            LlmSparseError: See `EngineLoader.load`.
        """
        with self._engine_lock:
            if self._engine is None:
                self._engine = self.loader.load()
            return self._engine

    @property
    def device(self) -> torch.device:
        """Where the model runs, or will run.

        Raises:
            LlmSparseError: There is no such device.
        """
        import torch

        return torch.device(self.loader.device)

    def encode_queries(
        self, texts: Sequence[str | None], *, batch_size: int = BATCH_SIZE, max_length: int | None = None
    ) -> SparseVectors:
        """Encode queries to float weights, top-k applied.

        Args:
            texts: The queries; None is an empty one.
            batch_size: Maximum number of queries in a batch; fewer where they are long, see `Engine.batch_tokens`.
            max_length: Maximum number of tokens of a query, by default as the spec says.

        Returns:
            One row for each query, in their order.

        Raises:
            DataError: A text is no string, or the model overflows in a 16-bit type.
            LlmSparseError: The model cannot be loaded; see `EngineLoader.load`.
        """
        return self._encode(texts, "query", batch_size, max_length)

    def encode_documents(
        self, texts: Sequence[str | None], *, batch_size: int = BATCH_SIZE, max_length: int | None = None
    ) -> SparseVectors:
        """Encode documents to float weights, top-k applied; as `encode_queries`."""
        return self._encode(texts, "document", batch_size, max_length)

    def query_impacts(
        self, texts: Sequence[str | None], *, batch_size: int = BATCH_SIZE, max_length: int | None = None
    ) -> list[dict[str, int]]:
        """Encode queries to ``{term: impact}``, quantised as the spec says."""
        return self._impacts(self.encode_queries(texts, batch_size=batch_size, max_length=max_length))

    def document_impacts(
        self, texts: Sequence[str | None], *, batch_size: int = BATCH_SIZE, max_length: int | None = None
    ) -> list[dict[str, int]]:
        """Encode documents to ``{term: impact}``, quantised as the spec says."""
        return self._impacts(self.encode_documents(texts, batch_size=batch_size, max_length=max_length))

    def term_impacts(self, text: str, side: Side) -> list[TermImpact]:
        """Return the terms of a text's vector, the heaviest first; special tokens and prefix are not its own."""
        impacts = (self.query_impacts if side == "query" else self.document_impacts)([text])[0]
        of_text = self.spec.replace(pooled_span="text")
        tokenization = Tokenization(self.checkpoint.tokenizer, of_text, self.checkpoint.vocabulary_size)
        ids, span = tokenization.token_ids([text], side)[0]
        own_ids = self.checkpoint.terms_of(np.array(ids[span.start : span.stop], dtype=np.int64))
        own = set(self.vocabulary.terms[own_ids])
        ordered = sorted(impacts.items(), key=lambda item: (-item[1], item[0]))
        return [TermImpact(term, impact, term in own) for term, impact in ordered]

    def _impacts(self, vectors: SparseVectors) -> list[dict[str, int]]:
        return vectors.impacts(self.spec.impact_factor, self.spec.impact_maximum).rows(self.vocabulary.terms)

    def _encode(
        self, texts: Sequence[str | None], side: Side, batch_size: int, max_length: int | None
    ) -> SparseVectors:
        if isinstance(texts, str):
            raise UsageError("encoder: one string is given: a list of texts is expected; put it into a list")
        if batch_size < 1:
            raise UsageError(f"encoder: batch size {batch_size}: at least 1 is needed")
        table = self.checkpoint.term_weights if side == "query" else None

        def encode() -> SparseVectors:
            tokenised = self.tokenization.token_ids(texts, side, max_length)
            if table is not None:
                return self._weighed(tokenised, table).top_k(self.spec.query_top_k)
            return self._modelled(tokenised, batch_size, self.spec.top_k(side))

        if side == "query" and table is None and len(texts) == 1 and isinstance(texts[0], str):
            return self.query_cache.vector(texts[0], max_length, encode)
        return encode()

    def _weighed(self, tokenised: list[TokenizedText], table: NDArray[np.float32]) -> SparseVectors:
        """Weight the terms that queries contain from the table, without a model."""
        rows, weights = [], []
        for ids, pooled in tokenised:
            own = self.checkpoint.terms_of(np.array(ids[pooled.start : pooled.stop], dtype=np.int64))
            terms, counts = np.unique(own, return_counts=True)
            rows.append(terms)
            weights.append(table[terms] * (counts if self.spec.query_term_counts else 1))
        return SparseVectors.from_rows(rows, weights, self.checkpoint.vocabulary_size)

    def _modelled(self, tokenised: list[TokenizedText], batch_size: int, top_k: int | None) -> SparseVectors:
        """Send texts through the model, those of similar length together."""
        filled = [number for number, text in enumerate(tokenised) if text.ids]
        filled.sort(key=lambda number: -len(tokenised[number].ids))
        size = self.checkpoint.vocabulary_size
        parts = list(self._encoded_batches([tokenised[number] for number in filled], batch_size, top_k))
        parts.append(SparseVectors.empty(1, size))  # the row of all texts without content
        place = np.full(len(tokenised), len(filled), dtype=np.int64)
        place[filled] = np.arange(len(filled))
        return SparseVectors.concatenate(parts)[place]

    def _encoded_batches(
        self, texts: list[TokenizedText], batch_size: int, top_k: int | None
    ) -> Iterator[SparseVectors]:
        """Encode texts, the longest first, in batches that fit: one that is too large for the memory is halved.

        So are all later ones of this encoder.
        """
        start = 0
        while start < len(texts):
            longest = len(texts[start].ids)
            tokens = self._batch_tokens or self.engine.batch_tokens
            batch = texts[start : start + batch_length(longest, batch_size, tokens)]
            try:
                yield self._forward(batch, top_k)
                start += len(batch)
            except OutOfMemoryError as error:
                if len(batch) == 1:
                    raise
                self._batch_tokens = len(batch) * longest // 2
                _logger.warning("%s; going on with %s tokens in a batch", str(error).split(";")[0], self._batch_tokens)

    def _forward(self, texts: list[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch, one thread at a time."""
        engine = self.engine
        with self._forward_lock:
            return engine.encode(texts, top_k)


def batch_length(longest: int, batch_size: int, batch_tokens: int) -> int:
    """Return how many texts of at most `longest` tokens a batch takes.

    Args:
        longest: Tokens of the longest; the others are padded to it.
        batch_size: Maximum number of texts of a batch.
        batch_tokens: Maximum number of padded tokens of a batch that has more than one text.
    """
    return max(1, min(batch_size, batch_tokens // longest))


def batches_of(order: list[int], lengths: list[int], batch_size: int, batch_tokens: int) -> Iterator[list[int]]:
    """Group texts so that no batch has too many of them or too many padded tokens.

    Args:
        order: Numbers of the texts, longest first.
        lengths: Tokens of each text, by its number.
        batch_size: Maximum number of texts of a batch.
        batch_tokens: Maximum number of padded tokens of a batch that has more than one text.
    """
    start = 0
    while start < len(order):
        size = batch_length(lengths[order[start]], batch_size, batch_tokens)
        yield order[start : start + size]
        start += size

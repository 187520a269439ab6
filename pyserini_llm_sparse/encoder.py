"""The public `SparseEncoder`: texts to sparse vectors over the vocabulary, under the model's encoding spec."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pyserini_llm_sparse.catalog import parse_encoder_name
from pyserini_llm_sparse.checkpoint import Checkpoint, load_checkpoint
from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.spec import EncodingSpec, Side
from pyserini_llm_sparse.terms import TermVocabulary
from pyserini_llm_sparse.tokenization import Tokenization, TokenizedText
from pyserini_llm_sparse.vectors import SparseVectors

if TYPE_CHECKING:
    import torch

    from pyserini_llm_sparse.backbone import Backbone

BATCH_SIZE = 32
BATCH_TOKENS = 16384  # padded tokens of one batch at most, whatever the batch size


class SparseEncoder:
    """Encodes queries and documents. Safe to use from several threads; the model runs one batch at a time.

    A text's vector does not depend on the texts beside it. None and blank texts have empty vectors.

    Attributes:
        checkpoint: The model's parts.
        tokenization: How texts become token ids.
        pad_side: On which side batches are padded; makes no difference to the vectors.

    >>> encoder = SparseEncoder.load("csplade")  # doctest: +SKIP
    >>> encoder.query_impacts(["what is a sparse vector"])  # doctest: +SKIP
    [{'Ġsparse': 212, 'Ġvector': 188}]
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Make an encoder of a loaded checkpoint; `load` takes a name."""
        self.checkpoint = checkpoint
        self.tokenization = Tokenization(checkpoint.tokenizer, checkpoint.spec, checkpoint.vocabulary_size)
        self.pad_side = "right"
        self._forward_lock = threading.Lock()
        excluded = [number for number in checkpoint.spec.excluded_token_ids if number < checkpoint.vocabulary_size]
        named = np.array([token is not None for token in checkpoint.tokens])
        named[excluded] = False
        self._allowed: NDArray[np.bool_] = named
        self._allowed_on_device: torch.Tensor | None = None

    @classmethod
    def load(
        cls, name: str = "csplade", *, device: str | None = None, dtype: str | None = None, **overrides: Any
    ) -> SparseEncoder:
        """Load an encoder by name.

        The weights are read when the first text goes through the model: an encoder with inference-free queries starts
        in a fraction of a second and needs neither torch nor the weights for queries.

        Args:
            name: ``csplade``, ``csplade:PATH_OR_HUB_ID``, or a path or hub id; see `catalog.parse_encoder_name`.
            device: Such as ``cpu`` or ``cuda:0``; by default a GPU where there is one.
            dtype: ``float32`` (default on a CPU), ``bfloat16`` or ``float16``.
            **overrides: Fields of the encoding spec, and the loading options of `catalog.ModelReference`.

        Raises:
            LlmSparseError: As `load_checkpoint` says.
        """
        return cls(load_checkpoint(parse_encoder_name(name).with_options(**overrides), device, dtype))

    @property
    def spec(self) -> EncodingSpec:
        """The encoding spec with the model's fingerprint."""
        return self.checkpoint.spec

    @cached_property
    def vocabulary(self) -> TermVocabulary:
        """The terms; ids that never become one (no token, or excluded) have none."""
        pairs = zip(self.checkpoint.tokens, self._allowed.tolist(), strict=True)
        named = [token if allowed else None for token, allowed in pairs]
        return TermVocabulary(named, self.spec.term_naming)

    @property
    def device(self) -> torch.device:
        """Where the model runs, or will run."""
        from pyserini_llm_sparse.devices import resolve_device

        return resolve_device(self.checkpoint.device)

    def encode_queries(
        self, texts: Sequence[str | None], *, batch_size: int = BATCH_SIZE, max_length: int | None = None
    ) -> SparseVectors:
        """Encode queries to float weights, top-k applied.

        Args:
            texts: The queries; None is an empty one.
            batch_size: Most queries in one batch.
            max_length: Most tokens of a query, by default as the spec says.

        Returns:
            One row for each query, in their order.

        Raises:
            DataError: A text is no string, or the model overflows in a 16-bit type.
            LlmSparseError: The model cannot be loaded; see `backbone.load_backbone`.
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

    def _impacts(self, vectors: SparseVectors) -> list[dict[str, int]]:
        return vectors.impacts(self.spec.impact_factor, self.spec.impact_maximum).rows(self.vocabulary.terms)

    def _encode(
        self, texts: Sequence[str | None], side: Side, batch_size: int, max_length: int | None
    ) -> SparseVectors:
        if isinstance(texts, str):
            raise UsageError("encoder: one string is given: a list of texts is expected; put it into a list")
        if batch_size < 1:
            raise UsageError(f"encoder: batch size {batch_size}: at least 1 is needed")
        tokenised = self.tokenization.token_ids(texts, side, max_length)
        if side == "query" and self.checkpoint.query_term_weights is not None:
            return self._weighed(tokenised, self.checkpoint.query_term_weights).top_k(self.spec.query_top_k)
        return self._modelled(tokenised, batch_size, self.spec.top_k(side))

    def _weighed(self, tokenised: list[TokenizedText], table: NDArray[np.float32]) -> SparseVectors:
        """Weight the terms that queries contain from the table, without a model."""
        allowed_table = np.where(self._allowed, table, np.float32(0))
        rows, weights = [], []
        for ids, pooled in tokenised:
            terms, counts = np.unique(np.array(ids[pooled.start : pooled.stop], dtype=np.int64), return_counts=True)
            rows.append(terms)
            weights.append(allowed_table[terms] * (counts if self.spec.query_term_counts else 1))
        return SparseVectors.from_rows(rows, weights, self.checkpoint.vocabulary_size)

    def _modelled(self, tokenised: list[TokenizedText], batch_size: int, top_k: int | None) -> SparseVectors:
        """Send texts through the model, those of similar length together."""
        filled = [number for number, text in enumerate(tokenised) if text.ids]
        filled.sort(key=lambda number: -len(tokenised[number].ids))
        size = self.checkpoint.vocabulary_size
        parts = [
            self._forward([tokenised[number] for number in numbers], top_k)
            for numbers in batches_of(filled, [len(text.ids) for text in tokenised], batch_size)
        ]
        parts.append(SparseVectors.empty(1, size))  # the row of all texts without content
        place = np.full(len(tokenised), len(filled), dtype=np.int64)
        place[filled] = np.arange(len(filled))
        return SparseVectors.concatenate(parts)[place]

    def _forward(self, texts: list[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch, one thread at a time."""
        import torch

        backbone = self.checkpoint.backbone
        try:
            with self._forward_lock, torch.inference_mode():
                return self._forward_on_device(backbone, texts, top_k)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{backbone.device}: out of memory with {len(texts)} texts of up to {len(texts[0].ids)} tokens; lower "
                "the batch size, or use dtype bfloat16"
            ) from error

    def _forward_on_device(self, backbone: Backbone, texts: list[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch; only terms that stay in the vectors leave the device."""
        import torch

        from pyserini_llm_sparse.head import activate, max_logits

        batch = self.tokenization.batch(texts, self.pad_side, backbone.device)
        hidden = backbone.hidden(batch.input_ids, batch.attention_mask)
        largest = max_logits(hidden, backbone.head_weight, batch.pool_mask, backbone.head_bias)
        weights = activate(largest, self.spec.logit_scale)
        if not bool(torch.isfinite(weights).all()):
            # A comparison with 0 would drop what is not a number, and an empty vector would look like a result.
            raise DataError(
                f"{self.checkpoint.folder}: a weight is not finite: the model overflows in "
                f"{backbone.head_weight.dtype}; encode with dtype float32, or bfloat16 on a GPU"
            )
        if self._allowed_on_device is None:
            self._allowed_on_device = torch.from_numpy(self._allowed).to(weights.device)
        kept = (weights > 0) & self._allowed_on_device
        return collected(weights, kept, top_k)


def collected(weights: torch.Tensor, kept: torch.Tensor, top_k: int | None) -> SparseVectors:
    """Take the kept entries of weights ``[batch, vocabulary]`` off their device, at most `top_k` of each row."""
    import torch

    if top_k is not None and top_k < weights.shape[1]:
        # All that equal the last one that fits are kept here; `top_k` below decides between equals by id.
        least = torch.where(kept, weights, 0).topk(top_k, dim=1).values[:, -1:]
        kept = kept & (weights >= least)
    counts = kept.sum(1).cpu().numpy()
    columns = kept.nonzero()[:, 1].to(torch.int32).cpu().numpy()
    values = weights[kept].float().cpu().numpy()
    indptr = np.concatenate(([0], np.cumsum(counts)))
    return SparseVectors(csr_array((values, columns, indptr), shape=tuple(weights.shape))).top_k(top_k)


def batches_of(order: list[int], lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Group texts so that no batch has too many of them or too many padded tokens.

    Args:
        order: Numbers of the texts, longest first.
        lengths: Tokens of each text, by its number.
        batch_size: Most texts of a batch.
    """
    start = 0
    while start < len(order):
        size = max(1, min(batch_size, BATCH_TOKENS // lengths[order[start]]))
        yield order[start : start + size]
        start += size

"""What computes the vectors of tokenised texts: one interface, and torch behind it; `onnx.session` is the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.sparse import csr_array

from pyserini_llm_sparse.errors import DataError, OutOfMemoryError
from pyserini_llm_sparse.modelling.tokenization import Tokenization, TokenizedText
from pyserini_llm_sparse.modelling.vectors import SparseVectors

if TYPE_CHECKING:
    import torch

    from pyserini_llm_sparse.modelling.checkpoint import Checkpoint


DEVICE_BATCH_TOKENS = 16384  # keeps a GPU busy
THREAD_BATCH_TOKENS = 256  # what a core computes with stays in its caches; more at once is up to twice as slow
LEAST_BATCH_TOKENS = 512
_NO_MEMORY_ON_CPU = "can't allocate memory"


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
            top_k: Most terms of a vector, the heaviest; None for all.

        Returns:
            One row for each text.

        Raises:
            DataError: A weight is not finite.
            LlmSparseError: The engine failed.
        """


def load_engine(checkpoint: Checkpoint, tokenization: Tokenization) -> Engine:
    """Load what computes the vectors of a checkpoint: ONNX Runtime for an ONNX export, else torch.

    Raises:
        LlmSparseError: The model cannot be loaded; see `backbone.load_backbone` and `onnx.session.OnnxEngine`.
    """
    if checkpoint.export is not None:
        from pyserini_llm_sparse.onnx.runtime.session import OnnxEngine

        return OnnxEngine(checkpoint.folder, checkpoint.export, checkpoint.threads, checkpoint.device)
    return TorchEngine(checkpoint, tokenization)


def best_batch_tokens(device_type: str, threads: int) -> int:
    """Return how many padded tokens a batch should have on a device.

    Args:
        device_type: ``cpu``, or what torch or ONNX Runtime call another.
        threads: CPU threads.
    """
    return max(LEAST_BATCH_TOKENS, THREAD_BATCH_TOKENS * threads) if device_type == "cpu" else DEVICE_BATCH_TOKENS


class TorchEngine:
    """Computes vectors with the torch model.

    Attributes:
        batch_tokens: See `Engine`.
        pad_side: On which side batches are padded; makes no difference to the vectors of causal language models, and
            must be ``right`` for masked ones.
    """

    def __init__(self, checkpoint: Checkpoint, tokenization: Tokenization) -> None:
        """Load the model of a checkpoint."""
        import torch

        if checkpoint.threads is not None:
            torch.set_num_threads(checkpoint.threads)
        self.pad_side = "right"
        self._checkpoint = checkpoint
        self._tokenization = tokenization
        self._backbone = checkpoint.backbone
        self._allowed = torch.from_numpy(checkpoint.allowed).to(self._backbone.device)
        self.batch_tokens = best_batch_tokens(self._backbone.device.type, torch.get_num_threads())

    def encode(self, texts: Sequence[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch; see `Engine`.

        Raises:
            OutOfMemoryError: The device has not enough memory.
        """
        import torch

        try:
            with torch.inference_mode():
                return self._encode(texts, top_k)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY_ON_CPU in str(error)):
                raise
            raise OutOfMemoryError(
                f"{self._backbone.device}: out of memory with {len(texts)} texts of up to {len(texts[0].ids)} tokens; "
                "lower the batch size, or use dtype bfloat16"
            ) from error

    def _encode(self, texts: Sequence[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch; only terms that stay in the vectors leave the device."""
        import torch

        from pyserini_llm_sparse.modelling.backbone.head import activate, max_logits

        backbone = self._backbone
        batch = self._tokenization.batch(texts, self.pad_side, backbone.device)
        hidden = backbone.hidden(batch.input_ids, batch.attention_mask)
        largest = max_logits(hidden, backbone.head_weight, batch.pool_mask, backbone.head_bias)
        weights = activate(largest, self._checkpoint.spec.logit_scale)
        if not bool(torch.isfinite(weights).all()):
            # A comparison with 0 would drop what is not a number, and an empty vector would look like a result.
            raise DataError(
                f"{self._checkpoint.folder}: a weight is not finite: the model overflows in "
                f"{backbone.head_weight.dtype}; encode with dtype float32, or bfloat16 on a GPU"
            )
        return collected(weights, (weights > 0) & self._allowed, top_k)


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

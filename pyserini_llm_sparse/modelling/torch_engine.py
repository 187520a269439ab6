"""torch as the engine of an encoder: the language model and the sparse head, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from pyserini_llm_sparse.errors import DataError, OutOfMemoryError
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.modelling.engine import best_batch_tokens
from pyserini_llm_sparse.modelling.tokenization import Tokenization, TokenizedText
from pyserini_llm_sparse.modelling.vectors import SparseVectors

if TYPE_CHECKING:
    import torch

    from pyserini_llm_sparse.modelling.backbone.language_model import Backbone

_NO_MEMORY_ON_CPU = "can't allocate memory"


@dataclass(frozen=True)
class TorchLoader:
    """Loads a checkpoint with torch, which is not imported before; see `EngineLoader`.

    Attributes:
        checkpoint: The model.
        asked_device: Where it shall run; None for the best there is.
        dtype: Its floating-point type; None for the device's default.
        threads: CPU threads; None leaves those of the process.
    """

    checkpoint: Checkpoint
    asked_device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    @property
    def precision(self) -> str:
        """The floating-point type by torch's name."""
        from pyserini_llm_sparse.modelling.backbone.devices import resolve_dtype

        return resolve_dtype(self.dtype, self.asked_device)

    @property
    def device(self) -> str:
        """Where it will run."""
        from pyserini_llm_sparse.modelling.backbone.devices import resolve_device

        return str(resolve_device(self.asked_device))

    def prepare(self) -> Path:
        """Return the model's folder: there is nothing to be made."""
        return self.checkpoint.folder

    def load(self) -> TorchEngine:
        """Load the model.

        Raises:
            LlmSparseError: See `load_backbone`.
        """
        import torch

        from pyserini_llm_sparse.modelling.backbone.calibrated import shift_head
        from pyserini_llm_sparse.modelling.backbone.loading import load_backbone

        checkpoint = self.checkpoint
        backbone = load_backbone(
            checkpoint.folder,
            attention=checkpoint.spec.attention,
            dtype=self.dtype,
            device=self.asked_device,
            base=checkpoint.base,
            trust_remote_code=checkpoint.trust_remote_code,
        )
        if backbone.vocabulary_size != checkpoint.vocabulary_size:
            raise DataError(
                f"{checkpoint.folder}: the output layer has {backbone.vocabulary_size} rows, config.json says "
                f"{checkpoint.vocabulary_size}; correct vocab_size"
            )
        if checkpoint.spec.calibrated_head and checkpoint.head_shift is not None:
            shift_head(backbone, torch.from_numpy(checkpoint.head_shift))
        return TorchEngine(checkpoint, backbone, self.threads)


class TorchEngine:
    """Computes vectors with the torch model.

    Attributes:
        backbone: The model.
        batch_tokens: See `Engine`.
        pad_side: On which side batches are padded; makes no difference to the vectors of causal language models, and
            must be ``right`` for masked ones.
    """

    def __init__(self, checkpoint: Checkpoint, backbone: Backbone, threads: int | None = None) -> None:
        """Put an engine together; `TorchLoader` loads the model.

        Args:
            checkpoint: Says what becomes a term, and how texts are batched.
            backbone: The model.
            threads: CPU threads; None leaves those of the process.
        """
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.pad_side = "right"
        self.backbone = backbone
        self.batch_tokens = best_batch_tokens(backbone.device.type, torch.get_num_threads())
        self._checkpoint = checkpoint
        self._tokenization = Tokenization(checkpoint.tokenizer, checkpoint.spec, checkpoint.vocabulary_size)
        self._allowed = torch.from_numpy(checkpoint.allowed).to(backbone.device)
        folding = checkpoint.folding
        self._term_of = None if folding is None else torch.from_numpy(folding.term_of).to(backbone.device)

    def encode(self, texts: Sequence[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch; see `Engine`."""
        import torch

        try:
            with torch.inference_mode():
                return self._encode(texts, top_k)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY_ON_CPU in str(error)):
                raise
            raise OutOfMemoryError(
                f"{self.backbone.device}: out of memory with {len(texts)} texts of up to {len(texts[0].ids)} tokens; "
                "lower the batch size, or use dtype bfloat16"
            ) from error

    def _encode(self, texts: Sequence[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch; only terms that stay in the vectors leave the device."""
        import torch

        from pyserini_llm_sparse.modelling.backbone.head import activate, fold_terms, max_logits
        from pyserini_llm_sparse.modelling.backbone.probing import not_finite

        backbone = self.backbone
        batch = self._tokenization.batch(texts, self.pad_side, backbone.device)
        hidden = backbone.hidden(batch.input_ids, batch.attention_mask)
        largest = max_logits(hidden, backbone.head_weight, batch.pool_mask, backbone.head_bias)
        weights = activate(fold_terms(largest, self._allowed, self._term_of), self._checkpoint.spec.logit_scale)
        if not bool(torch.isfinite(weights).all()):
            # A comparison with 0 would drop what is not a number, and an empty vector would look like a result.
            raise DataError(f"{self._checkpoint.folder}: {not_finite(backbone, 'weights of terms')}")
        return collected(weights, weights > 0, top_k)


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

"""ONNX Runtime as the engine of an encoder: one session over an export's graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import (
    DataError,
    PrerequisiteError,
    ResourceError,
    RunError,
    UsageError,
    one_line,
    require_version,
)
from pyserini_llm_sparse.onnx.description import GRAPH_FILE, ExportDescription
from pyserini_llm_sparse.tokenization import TokenizedText
from pyserini_llm_sparse.vectors import SparseVectors

PROVIDER = "CPUExecutionProvider"
LEAST_VERSION = (1, 30)  # the first whose attention goes both ways
_SILENT = 4  # errors come as exceptions; the library would print them as well


class OnnxEngine:
    """Computes vectors with ONNX Runtime on the CPU. Batches are padded on the right, as the graph needs it."""

    def __init__(self, folder: Path, description: ExportDescription, threads: int | None = None) -> None:
        """Open a session.

        Args:
            folder: The export's directory.
            description: What it says about itself.
            threads: CPU threads; by default as many as OMP_NUM_THREADS says, which torch, too, obeys, else all cores.

        Raises:
            PrerequisiteError: onnxruntime is missing, too old, or has no provider for the CPU.
            ResourceError: The graph does not fit into memory.
            DataError: The graph cannot be loaded.
        """
        runtime = require_runtime()
        self._folder = folder
        self._description = description
        options = runtime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads or _threads_of_environment()
        try:
            self._session = runtime.InferenceSession(folder / GRAPH_FILE, options, providers=[PROVIDER])
        except MemoryError as error:
            raise ResourceError(f"{folder}: does not fit into memory; export it with --precision int8") from error
        except Exception as error:  # the library's exceptions have no common base
            raise DataError(f"{folder}: ONNX Runtime {runtime.__version__} cannot load the graph: {one_line(error)}; "
                            "export the model again") from error  # fmt: skip

    def encode(self, texts: Sequence[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch; see `Engine`.

        Raises:
            UsageError: A text is longer than the graph has positions.
            DataError: A weight is not finite.
            RunError: ONNX Runtime failed, such as for want of memory.
        """
        size = self._description.vocabulary_size
        inputs = {**padded(texts, self._description.positions), "k": np.array([min(top_k or size, size)])}
        try:
            ids, weights = self._session.run(["term_ids", "weights"], inputs)
        except Exception as error:  # the library's exceptions have no common base
            raise RunError(
                f"{self._folder}: ONNX Runtime failed with {len(texts)} texts of up to {len(texts[0].ids)} tokens: "
                f"{one_line(error)}; lower the batch size if memory is short"
            ) from error
        if not np.isfinite(weights).all():
            raise DataError(
                f"{self._folder}: a weight is not finite: the model overflows; encode with the torch model it was "
                "exported from"
            )
        return SparseVectors.from_rows(list(ids), list(weights), size)


def padded(texts: Sequence[TokenizedText], positions: int) -> dict[str, NDArray[np.generic]]:
    """Return the graph's inputs for tokenised texts, all with content: ``input_ids``, ``lengths`` and ``pool_mask``.

    Args:
        texts: What `Tokenization.token_ids` returned.
        positions: Most tokens that a text may have.

    Raises:
        UsageError: A text is longer.
    """
    lengths = np.array([len(text.ids) for text in texts], dtype=np.int32)
    longest = max(len(text.ids) for text in texts)
    if longest > positions:
        raise UsageError(
            f"onnx: a text of {longest} tokens: the export has {positions} positions; lower the maximum length, or "
            "export with a longer one: export --model MODEL,document_max_length=TOKENS"
        )
    input_ids = np.zeros((len(texts), longest), dtype=np.int64)  # padding is never looked at
    pool_mask = np.zeros((len(texts), longest), dtype=np.bool_)
    for row, (ids, pooled) in enumerate(texts):
        input_ids[row, : len(ids)] = ids
        pool_mask[row, pooled.start : pooled.stop] = True
    return {"input_ids": input_ids, "lengths": lengths, "pool_mask": pool_mask}


def require_runtime() -> ModuleType:
    """Import onnxruntime.

    Raises:
        PrerequisiteError: It is missing, too old, or lacks the provider.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise PrerequisiteError(
            f"onnxruntime: cannot be imported: {one_line(error)}; pip install 'pyserini-llm-sparse[onnx]'"
        ) from error
    require_version("onnxruntime", onnxruntime.__version__, LEAST_VERSION, "attention in both directions")
    providers = onnxruntime.get_available_providers()
    if PROVIDER not in providers:
        raise PrerequisiteError(
            f"onnxruntime: has no {PROVIDER}, only {', '.join(providers) or 'none'}: two of its packages may have been "
            "installed over each other; uninstall all of them, then pip install 'pyserini-llm-sparse[onnx]'"
        )
    library: ModuleType = onnxruntime
    return library


def _threads_of_environment() -> int:
    """Return what OMP_NUM_THREADS says; 0, the library's word for all cores, if that is nothing."""
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(value) if value.isdigit() else 0

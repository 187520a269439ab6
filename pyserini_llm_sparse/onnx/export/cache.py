"""Exports that are made at the first use of a precision, and kept for all later ones."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.onnx.runtime.description import FIELDS_IN_GRAPH, read_description
from pyserini_llm_sparse.onnx.runtime.providers import device_number, require_cuda
from pyserini_llm_sparse.version import __version__

if TYPE_CHECKING:
    from pyserini_llm_sparse.modelling.checkpoint import Checkpoint

CACHE_VARIABLE = "PYSERINI_LLM_SPARSE_CACHE"

_logger = logging.getLogger("pyserini_llm_sparse")


def cache_folder() -> Path:
    """Return where exports are kept: the folder that `CACHE_VARIABLE` names, else one in the user's cache."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    system = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(system) if system else Path.home() / ".cache") / "pyserini-llm-sparse"


def cached_export(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint of the export of another in its `onnx_precision`; made now if there is none yet.

    The folder's name holds a digest of what the graph depends on: the model, some fields of its spec, and the version
    of this package. As any export, it is compared with torch before it is kept.

    Raises:
        LlmSparseError: See `export.export_encoder`.
    """
    from pyserini_llm_sparse.encoder import SparseEncoder
    from pyserini_llm_sparse.onnx.export.exporter import export_encoder

    precision = checkpoint.onnx_precision
    assert precision is not None
    if (number := device_number(checkpoint.export_device or "cpu")) is not None:
        require_cuda(number)  # before minutes are spent on an export
    in_graph = [getattr(checkpoint.spec, name) for name in ("model_fingerprint", *FIELDS_IN_GRAPH)]
    key = hashlib.sha256(f"{__version__} {in_graph}".encode()).hexdigest()
    folder = cache_folder() / "exports" / f"{checkpoint.folder.name}-{precision}-{key[:16]}"
    if (found := read_description(folder)) is None:
        _logger.warning("%s: precision %s: exporting to %s, once", checkpoint.folder, precision, folder)
        reference = SparseEncoder(replace(checkpoint, onnx_precision=None, dtype="float32", device="cpu"))
        try:
            export_encoder(reference, folder, precision=precision, model=str(checkpoint.folder), note=_logger.warning)
        except UsageError:
            if read_description(folder) is None:  # else another process was faster
                raise
        found = read_description(folder)
        assert found is not None
    found.require_unchanged(folder, checkpoint.tokenizer)
    return replace(checkpoint, folder=folder, export=found, onnx_precision=None)

"""ONNX exports of the small checkpoints, each made once in a session; tests skip where a package is missing."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.onnx.export.exporter import export_model
from pyserini_llm_sparse.onnx.runtime.precision import Precision
from tests.checkpoints import checkpoint

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package, reason=f"{_package} is not installed: pip install 'pyserini-llm-sparse[onnx]'")

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")  # bf16 needs a GPU
TERMS_PER_BLOCK = 128  # of the small vocabularies: several blocks, the last of another size
EVERYTHING: dict[str, Any] = {"query_top_k": None, "document_top_k": None}


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="pyserini-llm-sparse-exports-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def exported(name: str, precision: str = "fp32") -> Path:
    """Return the export of a checkpoint; nobody may write into it."""
    return _exported(name, precision)  # type: ignore[arg-type]


@cache
def _exported(name: str, precision: Precision) -> Path:
    from pyserini_llm_sparse.onnx.graph import head

    folder = _root() / f"{name}-{precision}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "TERMS_PER_BLOCK", TERMS_PER_BLOCK)
        export_model(str(checkpoint(name)), folder, precision=precision)
    return folder


def torch_encoder(name: str, **overrides: Any) -> SparseEncoder:
    """Return the encoder that exports are compared with."""
    return SparseEncoder.load(str(checkpoint(name)), device="cpu", dtype="float32", **overrides)

"""Causal-LM learned sparse retrieval for Pyserini. Importing this costs milliseconds and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder
    from pyserini_llm_sparse.modelling.spec import EncodingSpec
    from pyserini_llm_sparse.modelling.vectors import SparseVectors
    from pyserini_llm_sparse.plugin import register

from pyserini_llm_sparse.version import __version__

__all__ = ["EncodingSpec", "SparseEncoder", "SparseVectors", "__version__", "register"]

_HOMES = {
    "EncodingSpec": "pyserini_llm_sparse.modelling.spec",
    "SparseEncoder": "pyserini_llm_sparse.encoder",
    "SparseVectors": "pyserini_llm_sparse.modelling.vectors",
    "register": "pyserini_llm_sparse.plugin",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""The encoding of a whole corpus to files that Lucene indexes: streaming, in shards, resumable to the byte."""

from __future__ import annotations

from pyserini_llm_sparse.indexing.vectors.encode import encode_corpus
from pyserini_llm_sparse.indexing.vectors.report import EncodeReport

__all__ = ["EncodeReport", "encode_corpus"]

"""The encoding of a whole corpus to files that Lucene indexes: streaming, in shards, resumable to the byte."""

from __future__ import annotations

from pyserini_llm_sparse.indexing.vectors.encode import EncodeReport, encode_corpus

__all__ = ["EncodeReport", "encode_corpus"]

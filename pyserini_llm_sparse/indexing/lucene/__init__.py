"""Lucene indexes of impact vectors: building and checking one, the spec that it carries, searching, explaining."""

from __future__ import annotations

from pyserini_llm_sparse.indexing.lucene.building import IndexReport, index
from pyserini_llm_sparse.indexing.lucene.index_spec import (
    ALLOW_MISMATCH,
    index_state,
    read_index_spec,
    require_index_spec,
    set_index_spec_aside,
    settle_index_spec,
    write_index_spec,
)
from pyserini_llm_sparse.indexing.lucene.reading import (
    MAXIMUM_QUERY_TERMS,
    ONE_AT_A_TIME,
    Contribution,
    Hit,
    LuceneIndex,
)

__all__ = [
    "ALLOW_MISMATCH",
    "MAXIMUM_QUERY_TERMS",
    "ONE_AT_A_TIME",
    "Contribution",
    "Hit",
    "IndexReport",
    "LuceneIndex",
    "index",
    "index_state",
    "read_index_spec",
    "require_index_spec",
    "set_index_spec_aside",
    "settle_index_spec",
    "write_index_spec",
]

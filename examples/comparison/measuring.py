"""Measures any of the models on a collection: exact scores of all documents, measures of ir_measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from examples.comparison.settings import DOCUMENT_LENGTH, Model
from pyserini_llm_sparse.training.results.development_set import DevelopmentSet
from pyserini_llm_sparse.training.results.evaluation import parse_measures

DEPTH = 100
MEASURES = ("nDCG@10", "R@100")
Vectors = Any  # a dense or sparse matrix, a row for each text


def measure(model: Model, folder: Path, collection: DevelopmentSet) -> dict[str, float]:
    """Return nDCG@10, recall@100, active terms of both sides and documents encoded per second."""
    encode = _encoder(model, folder)
    queries = encode(collection.queries, True)
    started = time.monotonic()
    documents = encode(collection.documents, False)
    speed = len(collection.documents) / (time.monotonic() - started)
    scores = queries @ documents.T
    scores = np.asarray(scores.toarray() if hasattr(scores, "toarray") else scores)
    figures = {**_measures(scores, collection), "documents per second": speed}
    if model.representation == "sparse":
        figures |= {"query terms": queries.nnz / queries.shape[0], "document terms": documents.nnz / documents.shape[0]}
    return {name: round(value, 4) for name, value in figures.items()}


def _encoder(model: Model, folder: Path) -> Callable[[Sequence[str], bool], Vectors]:
    """Return what encodes texts; its second argument says whether they are queries."""
    if model.start == "bert":
        from sentence_transformers import SparseEncoder as BertSparseEncoder

        splade = BertSparseEncoder(str(folder), device="cpu")

        def encode_splade(texts: Sequence[str], query: bool) -> Vectors:
            rows = splade.encode(list(texts), convert_to_sparse_tensor=False, convert_to_tensor=True, batch_size=8)
            return csr_array(rows.numpy())

        return encode_splade
    if model.representation == "dense":
        from sentence_transformers import SentenceTransformer

        dense = SentenceTransformer(str(folder), device="cpu")
        dense.max_seq_length = DOCUMENT_LENGTH
        return lambda texts, query: dense.encode(list(texts))
    from pyserini_llm_sparse.encoder import SparseEncoder

    sparse = SparseEncoder.load(str(folder))
    return lambda texts, query: (sparse.encode_queries if query else sparse.encode_documents)(list(texts)).matrix


def _measures(scores: np.ndarray, collection: DevelopmentSet) -> dict[str, float]:
    import ir_measures

    measures = parse_measures("nDCG@10")
    run = {}
    for query, row in zip(collection.query_ids, scores, strict=True):
        best = np.argsort(-row, kind="stable")[:DEPTH]
        run[query] = {collection.document_ids[place]: float(row[place]) for place in best}
    found = ir_measures.calc_aggregate([measures[name] for name in MEASURES], collection.qrels, run)
    return {name: found[measures[name]] for name in MEASURES}

"""Measures a checkpoint on test collections in BEIR's layout by brute force, beside its ablations.

Every number comes from the integer impacts and dot products that an impact index would hold: the checkpoint as it is,
its own terms without expansion, queries encoded by the model, and BM25 over the same terms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
import torch
from evaluation import Collection, active_terms, beir_collection, bm25_matrix, expansion_share, ndcg_at_10, query_matrix
from tokenizer_training import inverse_document_frequency

from pyserini_llm_sparse.encoder import SparseEncoder


def token_arrays(encoder: SparseEncoder, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the whole texts' token ids, without special tokens."""
    backend = encoder.checkpoint.tokenizer.backend
    return [np.asarray(one.ids, dtype=np.int32) for one in backend.encode_batch(list(texts), add_special_tokens=False)]


def presence(documents: Sequence[np.ndarray], vocabulary: int) -> sparse.csr_array:
    """Return 1 where a term occurs in a document, ``[documents, vocabulary]``."""
    terms = [np.unique(ids) for ids in documents]
    rows = np.repeat(np.arange(len(terms)), [len(one) for one in terms])
    columns = np.concatenate([*terms, np.zeros(0, dtype=np.int32)])
    return sparse.csr_array((np.ones(len(columns)), (rows, columns)), shape=(len(terms), vocabulary))


def mean_ndcg(collection: Collection, queries: sparse.csr_array, documents: sparse.csr_array) -> float:
    """Return mean nDCG@10 of dot products."""
    return float(np.mean(list(ndcg_at_10(collection, (queries @ documents.T).toarray()).values())))


def measure(name: str, folder: Path) -> dict[str, float]:
    """Return the figures of one collection."""
    encoder = SparseEncoder.load(name)
    by_model = SparseEncoder.load(name, query_encoder="model")
    collection = beir_collection(folder)
    factor, maximum = encoder.spec.impact_factor, encoder.spec.impact_maximum
    vectors = encoder.encode_documents(collection.documents).impacts(factor, maximum).matrix
    documents = sparse.csr_array(vectors, dtype=np.float64)
    queries, model_queries = (
        sparse.csr_array(one.encode_queries(collection.queries).impacts(factor, maximum).matrix, dtype=np.float64)
        for one in (encoder, by_model)
    )
    ids = token_arrays(encoder, collection.documents)
    vocabulary = documents.shape[1]
    idf = inverse_document_frequency(ids, vocabulary)
    allowed = np.ones(vocabulary, dtype=np.float32)
    allowed[list(encoder.spec.excluded_token_ids)] = 0
    counted = query_matrix(token_arrays(encoder, collection.queries), allowed)
    return {
        "csplade": mean_ndcg(collection, queries, documents),
        "own terms only": mean_ndcg(collection, queries, documents * presence(ids, vocabulary)),
        "queries by the model": mean_ndcg(collection, model_queries, documents),
        "BM25, the same terms": mean_ndcg(collection, counted, bm25_matrix(ids, vocabulary, idf)),
        "terms of a document": active_terms(documents),
        "of these expansions": expansion_share(documents, ids),
        "terms of a query": active_terms(queries),
        "terms of a query by the model": active_terms(model_queries),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="encoder name or folder, as for --encoder")
    parser.add_argument("--collections", type=Path, nargs="+", required=True, help="folders in BEIR's layout")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in options.collections:
        figures = {name: round(value, 4) for name, value in measure(options.model, folder).items()}
        print(json.dumps({"collection": folder.name, **figures}))


if __name__ == "__main__":
    main()

"""Measures a model by brute force: impacts of every document, dot products, nDCG@10 per group of queries."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
import torch
from encoding import document_logits, in_batches
from tokenizer_training import token_ids
from torch import Tensor
from training_text import Development
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pyserini_llm_sparse.modelling.backbone.head import activate

K1, B = 0.9, 0.4


@dataclass
class Collection:
    """Documents, queries and graded judgements."""

    document_ids: list[str]
    documents: list[str]
    query_ids: list[str]
    queries: list[str]
    judgements: dict[str, dict[str, int]]


def development_collection(development: Development) -> Collection:
    """Return the development set as a collection; a query's group is what stands before the dash of its id."""
    return Collection(
        list(development.documents),
        list(development.documents.values()),
        list(development.queries),
        list(development.queries.values()),
        {query: dict.fromkeys(found, 1) for query, found in development.relevant.items()},
    )


def beir_collection(folder: Path) -> Collection:
    """Read a test collection in BEIR's layout, title and text in one field, queries with judgements only."""
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as stream:
        corpus = [json.loads(line) for line in stream]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    judgements: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        judgements[query][document] = int(grade)
    judged = [query for query in queries if query["_id"] in judgements]
    return Collection(
        [document["_id"] for document in corpus],
        [f"{document.get('title', '')} {document['text']}".strip() for document in corpus],
        [query["_id"] for query in judged],
        [query["text"] for query in judged],
        dict(judgements),
    )


def bm25_matrix(documents: list[np.ndarray], vocabulary: int, idf: np.ndarray) -> sparse.csr_array:
    """Return BM25's document weights over the model's own terms: what no training at all would give."""
    average = float(np.mean([len(ids) for ids in documents]))
    rows, columns, values = [], [], []
    for row, ids in enumerate(documents):
        terms, counts = np.unique(ids, return_counts=True)
        rows += [row] * len(terms)
        columns += terms.tolist()
        values += (counts * (K1 + 1) / (counts + K1 * (1 - B + B * len(ids) / average)) * idf[terms]).tolist()
    return sparse.csr_array((values, (rows, columns)), shape=(len(documents), vocabulary))


@torch.inference_mode()
def impact_matrix(
    model: LlamaForCausalLM, documents: list[np.ndarray], longest: int, excluded: Tensor, factor: float
) -> sparse.csr_array:
    """Return integer impacts ``[documents, vocabulary]``."""
    parts, places = [], []
    for where, texts in in_batches(documents, 32):
        weights = activate(document_logits(model, texts, longest))
        weights[:, excluded] = 0
        parts.append(sparse.csr_array(torch.round(weights * factor).numpy()))
        places += where
    return sparse.csr_array(sparse.vstack(parts).tocsr()[np.argsort(places)])


def query_matrix(queries: list[np.ndarray], weights: np.ndarray) -> sparse.csr_array:
    """Return inference-free queries: a term's weight from the table, as often as the term occurs."""
    rows = [row for row, ids in enumerate(queries) for _ in ids]
    columns = np.concatenate([*queries, np.zeros(0, dtype=np.int32)])
    matrix = sparse.csr_array((weights[columns], (rows, columns)), shape=(len(queries), len(weights)))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def ndcg_at_10(collection: Collection, scores: np.ndarray) -> dict[str, float]:
    """Return nDCG@10 of every query for scores ``[queries, documents]`` (trec_eval's linear gains)."""
    result = {}
    for row, query in enumerate(collection.query_ids):
        grades = collection.judgements[query]
        best = np.lexsort((np.arange(scores.shape[1]), -scores[row]))[:10]
        gained = [grades.get(collection.document_ids[place], 0) * (scores[row, place] > 0) for place in best]
        ideal = sorted(grades.values(), reverse=True)[:10]
        result[query] = _discounted(gained) / max(_discounted(ideal), 1e-9)
    return result


def _discounted(gains: list[int]) -> float:
    return sum(max(gain, 0) / math.log2(rank + 2) for rank, gain in enumerate(gains))


def grouped(by_query: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every group of queries, and the mean of these means as ``all``."""
    groups: dict[str, list[float]] = defaultdict(list)
    for query, value in by_query.items():
        groups[query.rsplit("-", 1)[0]].append(value)
    means = {group: float(np.mean(values)) for group, values in groups.items()}
    return {**means, "all": float(np.mean(list(means.values())))}


def active_terms(matrix: sparse.csr_array) -> float:
    """Return the mean number of terms of a row."""
    return matrix.nnz / max(matrix.shape[0], 1)


def tokenized(tokenizer: PreTrainedTokenizerFast, collection: Collection) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the ids of documents and queries, not cut."""
    longest = 1 << 20
    return token_ids(tokenizer, collection.documents, longest), token_ids(tokenizer, collection.queries, longest)


def expansion_share(matrix: sparse.csr_array, documents: list[np.ndarray]) -> float:
    """Return how many terms of a document, on average, do not occur in it."""
    found = Counter({"expanded": 0})
    for row, ids in enumerate(documents):
        terms = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        found["expanded"] += int((~np.isin(terms, ids)).sum())
    return found["expanded"] / max(len(documents), 1)

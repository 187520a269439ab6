"""The second part: static pruning of one set of document vectors, and of queries, without encoding anything again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from examples.quantization.collection import Collection
from examples.quantization.lucene import build_index
from examples.quantization.precisions import Machine, full_vectors, load, query_encoders
from examples.quantization.settings import (
    BITS,
    PRUNING,
    QUERY_TOP_K,
    REFERENCE,
    SHARES,
    TOP_K,
    Figures,
    cell,
    read_cell,
    write_cell,
)
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.vectors import SparseVectors

ALL = "all"


def by_mass(vectors: SparseVectors, share: float) -> SparseVectors:
    """Keep of each row the heaviest terms that together have a share of its weight; the last one is what reaches it.

    Args:
        vectors: Weights.
        share: Above 0 and at most 1. Among equal weights the lower id stays.
    """
    matrix, counts = vectors.matrix, vectors.active_terms()
    row_of = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((matrix.indices, -matrix.data, row_of))  # by row, then weight downwards, then id
    reached = np.concatenate(([0.0], np.cumsum(matrix.data[order], dtype=np.float64)))
    before_row = reached[matrix.indptr[:-1]]
    total = reached[matrix.indptr[1:]] - before_row
    before = reached[:-1] - np.repeat(before_row, counts)  # of the same row, heavier than the term
    # Sums of another order differ in their last digits.
    kept = np.sort(order[before < np.repeat(share * total, counts) * (1 - 1e-12)])
    indptr = np.concatenate(([0], np.cumsum(np.bincount(row_of[kept], minlength=len(counts)))))
    return SparseVectors(csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape))


def by_bits(vectors: SparseVectors, bits: int) -> SparseVectors:
    """Quantise weights to impacts of so many bits: the largest weight of all gets the largest impact.

    Terms whose impact is 0 are dropped, so that fewer bits also prune.
    """
    most = 2**bits - 1
    largest = float(vectors.matrix.data.max()) if vectors.matrix.nnz else 1.0
    return vectors.impacts(most / largest, most)


def pruned(vectors: SparseVectors, spec: EncodingSpec) -> Iterator[tuple[str, int | str, SparseVectors]]:
    """Yield a method, its value and the impacts that it leaves: everything first, then what each method keeps."""

    def impacts(kept: SparseVectors) -> SparseVectors:
        return kept.impacts(spec.impact_factor, spec.impact_maximum)

    yield ALL, ALL, impacts(vectors)
    for most in TOP_K:
        yield "top-k", most, impacts(vectors.top_k(most))
    for share in SHARES:
        yield "weight mass", share, impacts(by_mass(vectors, share / 100))
    for bits in BITS:
        yield "impact bits", bits, by_bits(vectors, bits)


def measure(collection: Collection, model: str, work: Path, machine: Machine) -> None:
    """Measure what is not done yet of a collection, and keep it point by point.

    The index of each set of document vectors is built for its size; scores are products of impacts, which are Lucene's
    (the first part compares them). Where the model encodes the queries, they are pruned, with documents as the spec has
    them.

    Raises:
        LlmSparseError: Queries cannot be encoded, or an index cannot be built.
    """
    path = cell(work, collection.name, PRUNING)
    figures = read_cell(path) or {"documents": [], "queries": []}
    full = full_vectors(collection)
    encoders = {
        name: load(REFERENCE, model, work / "exports", machine, query_encoder=name)
        for name in query_encoders(load(REFERENCE, model, work / "exports", machine))
    }
    spec, terms = encoders["model"].spec, encoders["model"].vocabulary.terms
    weights = {name: encoder.encode_queries(collection.queries) for name, encoder in encoders.items()}
    queries = {name: each.impacts(spec.impact_factor, spec.impact_maximum) for name, each in weights.items()}
    for method, value, impacts in pruned(full, spec):
        if _done(figures["documents"], method, value):
            continue
        rows = impacts.rows(terms)
        size = build_index(collection.folder / PRUNING, collection.document_ids, rows, None, machine.threads)
        figures["documents"].append(
            {
                "method": method,
                "value": value,
                "terms": float(impacts.active_terms().mean()),
                "index bytes per document": size / len(collection.documents),
                "queries": {name: collection.searched(each, impacts) for name, each in queries.items()},
            }
        )
        write_cell(path, figures)
    documents = full.top_k(spec.document_top_k).impacts(spec.impact_factor, spec.impact_maximum)
    for name, each in weights.items():
        for most in (*QUERY_TOP_K, ALL) if name == "model" else (ALL,):
            if _done(figures["queries"], name, most):
                continue
            kept = each.top_k(None if most == ALL else int(most)).impacts(spec.impact_factor, spec.impact_maximum)
            terms_left = float(kept.active_terms().mean())
            point = {"method": name, "value": most, "terms": terms_left, **collection.searched(kept, documents)}
            figures["queries"].append(point)
    write_cell(path, figures)


def _done(points: list[Figures], method: str, value: int | str) -> bool:
    return any((point["method"], point["value"]) == (method, value) for point in points)

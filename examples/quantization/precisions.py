"""The first part: one collection encoded, indexed and searched in one number format of the model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.sparse import csr_array, load_npz, save_npz

from examples.quantization.collection import Collection
from examples.quantization.lucene import build_index, require_same_scores, search, search_milliseconds
from examples.quantization.settings import QUERY_ENCODERS, REFERENCE, TORCH_TYPES, Figures
from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from pyserini_llm_sparse.onnx.export.verification import TOP, top_overlap
from pyserini_llm_sparse.onnx.runtime.description import GRAPH_FILE, WEIGHTS_FILE, read_description
from pyserini_llm_sparse.onnx.runtime.precision import known_precision

WARM_UP = 16  # texts before anything is timed
WORDS = 8  # of a document that are a query to warm up with
TIMED_QUERIES = 100
FULL_VECTORS = "full-vectors.npz"  # of the reference, without top-k, in the collection's folder


@dataclass(frozen=True)
class Machine:
    """Where everything runs: the model's device, and the threads of model, indexing and search."""

    device: str
    threads: int


def load(engine: str, model: str, exports: Path, machine: Machine, **fields: Any) -> SparseEncoder:
    """Load the encoder of an engine; exports are made when they are needed first, and kept.

    Raises:
        LlmSparseError: The model cannot be loaded, or cannot be exported within the bounds.
    """
    if engine in TORCH_TYPES:
        return SparseEncoder.load(
            model, device=machine.device, dtype=TORCH_TYPES[engine], threads=machine.threads, **fields
        )
    precision = engine.split()[1]
    folder = exports / precision
    if read_description(folder) is None:
        from pyserini_llm_sparse.onnx.export.exporter import export_model

        export_model(model, folder, precision=known_precision(precision))
    return SparseEncoder.load(str(folder), device=machine.device, threads=machine.threads, **fields)


def measure(engine: str, collection: Collection, model: str, work: Path, machine: Machine) -> Figures:
    """Encode, index and search a collection.

    Args:
        engine: One of `settings.ENGINES`; the reference's full vectors are kept for the others and for pruning.
        collection: What is measured on.
        model: Name of the model in torch.
        work: The study's folder.
        machine: Where it runs.

    Returns:
        The figures of the documents, and under ``queries`` those of each query encoder.

    Raises:
        LlmSparseError: The machine or the gate of the export refuses the engine.
    """
    exports = work / "exports"
    shipped = SparseEncoder.load(model).spec
    # The reference keeps all terms and cuts them afterwards; that takes no longer.
    fields = {"document_top_k": None} if engine == REFERENCE else {}
    encoder = load(engine, model, exports, machine, **fields)
    encoder.encode_documents(collection.documents[:WARM_UP])
    started = time.perf_counter()
    encoded = encoder.encode_documents(collection.documents)
    vectors = encoded.top_k(shipped.document_top_k)
    seconds = time.perf_counter() - started
    if engine == REFERENCE:
        save_npz(collection.folder / FULL_VECTORS, encoded.matrix)
    impacts = vectors.impacts(shipped.impact_factor, shipped.impact_maximum)
    folder = collection.folder / engine.replace(" ", "-")
    names = encoder.vocabulary.terms
    size = build_index(folder, collection.document_ids, impacts.rows(names), shipped, machine.threads)
    figures: Figures = {
        "documents": len(collection.documents),
        "documents per second": len(collection.documents) / seconds,
        "document terms": float(vectors.active_terms().mean()),
        "top terms kept": top_overlap(full_vectors(collection), vectors, TOP),
        "index bytes": size,
        "file bytes": model_bytes(encoder),
        "queries": {},
    }
    for name in query_encoders(encoder):
        queries = load(engine, model, exports, machine, query_encoder=name)
        figures["queries"][name] = _queries(
            queries, f"{collection.name}: {engine}", collection, impacts, folder, machine
        )
    return figures


def _queries(
    encoder: SparseEncoder, where: str, collection: Collection, documents: SparseVectors, folder: Path, machine: Machine
) -> Figures:
    """Encode the queries one by one and together, and search the index that lies in a folder."""
    milliseconds = query_milliseconds(encoder, collection.queries, collection.documents[:WARM_UP])
    vectors = encoder.encode_queries(collection.queries)
    impacts = vectors.impacts(encoder.spec.impact_factor, encoder.spec.impact_maximum)
    rows = impacts.rows(encoder.vocabulary.terms)
    run = search(folder, collection, rows, machine.threads)
    scores = impacts.dot(documents)
    exact = {
        query: dict(zip(collection.document_ids, row.tolist(), strict=True))
        for query, row in zip(collection.query_ids, scores, strict=True)
    }
    require_same_scores(where, run, exact)
    return {
        **collection.measured(run),
        "terms": float(vectors.active_terms().mean()),
        "encode ms": milliseconds,
        "search ms": search_milliseconds(folder, rows),
    }


def query_encoders(encoder: SparseEncoder) -> tuple[str, ...]:
    """Return how queries can be encoded: a model without a table of term weights must do it itself."""
    return QUERY_ENCODERS if encoder.checkpoint.query_term_weights is not None else QUERY_ENCODERS[1:]


def query_milliseconds(encoder: SparseEncoder, queries: Sequence[str], warm_up: Sequence[str]) -> float:
    """Return the median time of encoding one query, the model being warm."""
    # The encoder knows queries that it has seen; these are none of them.
    for text in warm_up:
        encoder.encode_queries([" ".join(text.split()[:WORDS])])
    seconds = []
    for text in list(dict.fromkeys(queries))[:TIMED_QUERIES]:
        started = time.perf_counter()
        encoder.encode_queries([text])
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def full_vectors(collection: Collection) -> SparseVectors:
    """Return the reference's vectors of all documents, with all terms."""
    return SparseVectors(csr_array(load_npz(collection.folder / FULL_VECTORS)))


def model_bytes(encoder: SparseEncoder) -> int:
    """Return the size of the files that hold the weights: of torch as it is on disk, whatever it computes in."""
    folder = encoder.checkpoint.folder
    graph = [folder / GRAPH_FILE, folder / WEIGHTS_FILE]
    files = graph if graph[0].is_file() else list(folder.glob("model*.safetensors"))
    return sum(path.stat().st_size for path in files)

"""The command that measures a system: the time of a single query, and the sizes of index and model.

    python -m pyserini_llm_sparse.regressions.run.measuring --kind bm25 --index INDEX --topics TOPICS.tsv --output FILE

Each query is encoded and searched by itself, through Pyserini's searchers, on one thread, when everything is warm. The
time of a query is the median of three rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import ResourceError
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.topics import Topic, read_topics
from pyserini_llm_sparse.plugin import register

KINDS = ("bm25", "impact", "faiss", "lucene-hnsw")
HITS = 10  # of a query, as a person would look at them
ROUNDS = 3
WARM_UP = 10
_WEIGHTS = ((".safetensors",), (".onnx", ".onnx.data"), (".bin",))  # formats, one of which holds a model's weights

Search = Callable[[str], Any]


def main() -> None:
    """Measure one system, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--index", required=True)
    parser.add_argument("--topics", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--encoder", help="as the search takes it")
    parser.add_argument("--k1", type=float)
    parser.add_argument("--b", type=float)
    parser.add_argument("--rm3", action="store_true")
    parser.add_argument("--pooling", default="cls")
    parser.add_argument("--l2-norm", action="store_true")
    parser.add_argument("--query-prefix")
    arguments = parser.parse_args()
    register()  # a command of its own, also where the start-up hook did not run
    search = {"bm25": _bm25, "impact": _impact, "faiss": _faiss, "lucene-hnsw": _lucene_hnsw}[arguments.kind](arguments)
    found = {
        "latency_ms": milliseconds(search, read_topics(arguments.topics)),
        "postings": _postings(arguments.index) if arguments.kind in ("bm25", "impact") else None,
        "model_bytes": None if arguments.encoder is None else model_bytes(arguments.encoder, arguments.kind),
    }
    with atomic_file(arguments.output) as stream:
        stream.write(json.dumps(found).encode() + b"\n")


def milliseconds(search: Search, topics: list[Topic]) -> dict[str, float]:
    """Return the milliseconds of each query by its id, the median of several rounds."""
    for topic in topics[:WARM_UP]:
        search(topic.text)
    rounds: dict[str, list[float]] = {topic.id: [] for topic in topics}
    for _ in range(ROUNDS):
        for topic in topics:
            started = time.perf_counter()
            search(topic.text)
            rounds[topic.id].append(1000 * (time.perf_counter() - started))
    return {name: round(statistics.median(times), 4) for name, times in rounds.items()}


def model_bytes(encoder: str, kind: str) -> int | None:
    """Return the size of the weights that documents and queries are encoded with; None for a model that is not here.

    Args:
        encoder: Name of an encoder, or path of a model.
        kind: Of the search: those of an ``impact`` search have names of this package.
    """
    from pyserini_llm_sparse.modelling.names import is_ours

    folder = Path(encoder)
    if kind == "impact" and is_ours(encoder):
        from pyserini_llm_sparse.encoder import SparseEncoder

        folder = SparseEncoder.load(encoder).loader.prepare()
    sizes = [
        sum(path.stat().st_size for path in folder.glob("*") if path.name.endswith(suffixes)) for suffixes in _WEIGHTS
    ]
    return max(sizes) or None


def bm25_searcher(index: str, k1: float, b: float, rm3: bool) -> Any:
    """Open an index, by its path or Pyserini's name of it, with Pyserini's searcher for BM25."""
    from pyserini.search.lucene import LuceneSearcher

    searcher = _opened(LuceneSearcher, index)
    searcher.set_bm25(k1, b)
    if rm3:
        searcher.set_rm3()
    return searcher


def _bm25(arguments: argparse.Namespace) -> Search:
    searcher = bm25_searcher(arguments.index, arguments.k1, arguments.b, arguments.rm3)
    return lambda query: searcher.search(query, k=HITS)


def _impact(arguments: argparse.Namespace) -> Search:
    from pyserini.search.lucene import LuceneImpactSearcher

    searcher = _opened(LuceneImpactSearcher, arguments.index, arguments.encoder)
    cache = getattr(getattr(searcher.query_encoder, "encoder", None), "query_cache", None)

    def search(query: str) -> Any:
        if cache is not None:
            cache.clear()  # a query that was asked before would cost nothing
        return searcher.search(query, k=HITS)

    return search


def _faiss(arguments: argparse.Namespace) -> Search:
    import faiss
    from pyserini.search.faiss import FaissSearcher

    from pyserini_llm_sparse.regressions.run.dense_command import query_encoder

    faiss.omp_set_num_threads(1)
    searcher = _opened(FaissSearcher, arguments.index, query_encoder(arguments))
    return lambda query: searcher.search(query, k=HITS)


def _lucene_hnsw(arguments: argparse.Namespace) -> Search:
    from pyserini_llm_sparse.indexing.lucene.dense import DenseIndex
    from pyserini_llm_sparse.regressions.run.dense_command import query_encoder

    encoder, index = query_encoder(arguments), DenseIndex(arguments.index)
    return lambda query: index.search(encoder.encode(query), HITS)


def _opened(searcher: Any, index: str, *options: Any) -> Any:
    """Open an index by its path or by Pyserini's name of it."""
    if Path(index).exists():
        return searcher(index, *options)
    opened = searcher.from_prebuilt_index(index, *options)
    if opened is None:
        raise ResourceError(f"{index}: neither a folder nor an index that Pyserini has; check the name")
    return opened


def _postings(index: str) -> int | None:
    from pyserini_llm_sparse.indexing.lucene import LuceneIndex

    if not Path(index).exists():
        return None
    with LuceneIndex(index) as opened:
        return opened.postings


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    main()

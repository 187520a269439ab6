"""Milliseconds of a single query, p50 and p99 when everything is warm, and queries per second of many at once.

    python benchmarks/query_latency.py --data ../shared/data --collection scifact --threads 2
    python benchmarks/query_latency.py --data ../shared/data --encode-only --ways inference-free "onnx int8"

The queries are the topics of a BEIR directory. Measured are encoding alone, from text to terms and impacts, and, unless
``--encode-only``, encoding and search together through Pyserini's LuceneImpactSearcher (10 hits) on an index of the
model's documents, which is made by Pyserini's commands if ``--work`` does not hold it yet.

- ``inference-free``: the model's queries as they are by default, without a model.
- ``torch``, ``onnx fp32``, ``onnx int8`` and further precisions: the same encoder with ``query_encoder=model``. Its
  cache of repeated queries is emptied before each round; ``repeated`` is what a query takes that is in it.
- ``sentence-transformers``: its SparseEncoder with the same weights.
- ``pyserini splade``: Pyserini's SpladeQueryEncoder on a random BERT of the same width, depth and vocabulary, shifted
  until a query has about thirty terms. It encodes one query at a time, also those of a batch.

A search takes the longer the more terms a query has; the table says how many. Each way runs in a process of its own;
the rounds of all ways alternate. Reported are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beir_collections import commands, prepare, run
from peers import sentence_transformers_encoder
from random_models import random_bert
from rounds import Figures, alternate, print_table, serve

from pyserini_llm_sparse.onnx.runtime.precision import PRECISIONS
from pyserini_llm_sparse.regressions.outcome.quantities import percentile

MODELLED = ("torch", *(f"onnx {precision}" for precision in PRECISIONS))
WAYS = ("inference-free", *MODELLED, "sentence-transformers", "pyserini splade")
HITS = 10

Vector = dict[str, int]


class Ours:
    """Our encoder, as Pyserini's searcher is given it if there is an index to search."""

    def __init__(self, way: str, options: argparse.Namespace) -> None:
        name = options.model if way == "inference-free" else f"{options.model},query_encoder=model"
        precision = way.removeprefix("onnx ") if way.startswith("onnx ") else None
        if options.encode_only:
            from pyserini_llm_sparse import SparseEncoder

            self.encoder = SparseEncoder.load(name, device=options.device, precision=precision)
        else:
            from pyserini_llm_sparse.plugin.encoders import CspladeQueryEncoder

            self.for_searcher = CspladeQueryEncoder(name, device=options.device, precision=precision)
            self.encoder = self.for_searcher.encoder

    def encode(self, query: str) -> Vector:
        """Encode one query."""
        return self.encoder.query_impacts([query])[0]

    def encode_all(self, queries: list[str]) -> list[Vector]:
        """Encode queries in batches."""
        return self.encoder.query_impacts(queries)

    def forget(self) -> None:
        """Empty the cache."""
        self.encoder.query_cache.clear()


class SentenceTransformers:
    """Their encoder behind the interface of Pyserini's query encoders."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.encoder = sentence_transformers_encoder(options.model, options.threads, options.device)
        self.for_searcher = self

    def encode(self, query: str) -> Vector:
        """Encode one query."""
        return self.encode_all([query])[0]

    def encode_all(self, queries: list[str]) -> list[Vector]:
        """Encode queries in batches."""
        rows = self.encoder.decode(self.encoder.encode_query(queries, show_progress_bar=False))
        return [{term: round(100 * weight) for term, weight in row} for row in rows]

    def forget(self) -> None:
        """Nothing: it has no cache."""


class PyseriniSplade:
    """Pyserini's own encoder."""

    def __init__(self, options: argparse.Namespace) -> None:
        from pyserini.encode import SpladeQueryEncoder

        self.for_searcher = SpladeQueryEncoder(str(options.bert), device=options.device)

    def encode(self, query: str) -> Vector:
        """Encode one query."""
        vector: Vector = self.for_searcher.encode(query)
        return vector

    def encode_all(self, queries: list[str]) -> list[Vector]:
        """Encode queries one after the other: there is no other way."""
        return [self.encode(query) for query in queries]

    def forget(self) -> None:
        """Nothing: it has no cache."""


def timed(work: Callable[[str], Any], queries: list[str]) -> list[float]:
    """Return the milliseconds of each query."""
    found = []
    for query in queries:
        started = time.perf_counter()
        work(query)
        found.append(1000 * (time.perf_counter() - started))
    return found


def load(way: str, options: argparse.Namespace, queries: list[str]) -> Callable[[], Figures]:
    """Load a way and warm it up. Returns what measures one round."""
    if not options.encode_only:
        from pyserini_llm_sparse.plugin import register

        register()
    peers = {"sentence-transformers": SentenceTransformers, "pyserini splade": PyseriniSplade}
    encoder: Any = peers[way](options) if way in peers else Ours(way, options)
    searches: dict[str, Callable[[str], Any]] = {"encode": encoder.encode}
    batches: dict[str, Callable[[list[str]], Any]] = {"encode": encoder.encode_all}
    if not options.encode_only:
        from pyserini.search.lucene import LuceneImpactSearcher

        searcher = LuceneImpactSearcher(str(options.index), encoder.for_searcher)
        names = [str(number) for number in range(len(queries))]
        searches["search"] = lambda query: searcher.search(query, HITS)
        batches["search"] = lambda texts: searcher.batch_search(texts, names, HITS, options.threads)

    def work() -> Figures:
        figures: Figures = {"terms": sum(map(len, encoder.encode_all(queries))) / len(queries)}
        for name, one in searches.items():
            encoder.forget()
            found = timed(one, queries)
            figures |= {f"{name}_p50_ms": percentile(found, 0.5), f"{name}_p99_ms": percentile(found, 0.99)}
            if way in MODELLED:
                figures[f"{name}_repeated_p50_ms"] = percentile(timed(one, queries), 0.5)
        for name, many in batches.items():
            started = time.perf_counter()
            many(queries)
            figures[f"{name}_queries_per_second"] = len(queries) / (time.perf_counter() - started)
        return figures

    work()
    return work


def read_queries(path: Path, count: int) -> list[str]:
    """Return the first distinct texts of a file of topics."""
    return list(dict.fromkeys(line.split("\t", 1)[1] for line in path.read_text("utf-8").splitlines()))[:count]


def prepared_topics(options: argparse.Namespace) -> Path:
    """Return a collection's file of topics; the collection is laid out now if it is not yet."""
    folder: Path = options.work / options.collection
    if not (folder / "beir-topics.tsv").exists():
        prepare(options.data / options.collection, folder)
    return folder / "beir-topics.tsv"


def prepared_index(options: argparse.Namespace) -> Path:
    """Return the folder of a collection's index, which is made now if it is not there."""
    folder = prepared_topics(options).parent
    if not any((folder / "index").glob("segments_*")):
        steps = commands(folder, options.model, options.threads)
        for step in ("encode", "index"):
            run(steps[step], folder / "log.txt")
    return folder / "index"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one BEIR directory a collection")
    parser.add_argument("--collection", default="scifact")
    parser.add_argument("--work", type=Path, default=Path("build/collections"), help="as of beir_collections.py")
    parser.add_argument("--model", default="csplade", help="an encoder name with inference-free queries")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=300, help="at most")
    parser.add_argument("--encode-only", action="store_true", help="no index, no search")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--peer", choices=WAYS, default="pyserini splade", help="what ratios are to")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    for hidden in ("--worker", "--bert", "--index"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    topics = prepared_topics(options)
    if options.worker:
        serve(lambda: load(options.worker, options, read_queries(topics, options.queries)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PYSERINI_LLM_SPARSE_CACHE": folder, "OMP_NUM_THREADS": str(options.threads)}
        base: list[object] = [__file__, "--bert", Path(folder) / "bert"]
        for name in ("data", "collection", "work", "model", "device", "queries", "threads"):
            base += [f"--{name}", getattr(options, name)]
        base += ["--encode-only"] if options.encode_only else ["--index", prepared_index(options)]
        if "pyserini splade" in options.ways:
            random_bert(Path(folder) / "bert", options.model, read_queries(topics, 16))
        measured = alternate({way: [*base, "--worker", way] for way in options.ways}, options.rounds)
    measured.save(options.json)
    for name, title in (("encode", "encoding"), ("search", "encoding and search")):
        header = [
            title,
            "terms",
            "p50 ms",
            "p99 ms",
            f"p50 of {options.peer}",
            "repeated p50 ms",
            "queries/s in batches",
        ]
        rows = []
        for way, found in measured.figures.items():
            if f"{name}_p50_ms" in found:
                cells = [f"{found[f'{name}_{share}_ms']:.2f}" for share in ("p50", "p99")]
                repeated = found.get(f"{name}_repeated_p50_ms")
                cells += [measured.ratio(way, options.peer, f"{name}_p50_ms"), f"{repeated:.2f}" if repeated else "-"]
                rows.append([way, f"{found['terms']:.0f}", *cells, f"{found[f'{name}_queries_per_second']:,.0f}"])
        if rows:
            print_table(header, rows)
            print()
    measured.print_reasons()


if __name__ == "__main__":
    main()

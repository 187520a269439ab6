"""Lucene's part of the study: vectors to an index, its size, Pyserini's search, and how long a query takes."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import ir_measures

from benchmarks.beir_collections import commands, run
from examples.quantization.collection import Collection
from pyserini_llm_sparse.files.vector_lines import cached_query_line, vector_line
from pyserini_llm_sparse.indexing.lucene import LuceneIndex
from pyserini_llm_sparse.modelling.names import SPEC_FILE
from pyserini_llm_sparse.modelling.spec import EncodingSpec, sidecar

LAUNCHER = "pyserini_llm_sparse.pyserini"  # Pyserini's commands with this plugin, also where it is not installed
HITS = 10  # of the search that is timed
WARM_UP = 200  # searches before it
NUDGE = 0.5  # Anserini moves equal scores apart by far less; impacts are whole numbers

Impacts = Sequence[dict[str, int]]


def build_index(folder: Path, ids: Sequence[str], impacts: Impacts, spec: EncodingSpec | None, threads: int) -> int:
    """Index vectors with ``pyserini.index.lucene`` to ``folder/index``, in one segment.

    Args:
        folder: Where vectors, index and log go; an index that is there is replaced.
        ids: The documents' ids.
        impacts: Their vectors.
        spec: Goes into the index, to be compared when it is searched; None for vectors that no spec describes.
        threads: Indexing threads.

    Returns:
        The bytes of the index, of Lucene's own files.
    """
    for stale in ("vectors", "index"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    vectors = folder / "vectors"
    vectors.mkdir(parents=True)
    with (vectors / "vectors.jsonl").open("wb") as stream:
        stream.writelines(vector_line(name, vector) for name, vector in zip(ids, impacts, strict=True))
    sidecar(vectors).unlink(missing_ok=True)
    if spec is not None:
        spec.save(sidecar(vectors))
    command = commands(folder, "csplade", threads)["index"]
    # In one segment, so that sizes do not depend on threads.
    run([LAUNCHER, *command, "--optimize"], folder / "log.txt")
    shutil.rmtree(vectors)
    return sum(path.stat().st_size for path in (folder / "index").iterdir() if path.name != SPEC_FILE)


def search(folder: Path, collection: Collection, impacts: Impacts, threads: int) -> dict[str, dict[str, float]]:
    """Search ``folder/index`` with ``pyserini.search.lucene --impact``, the queries' vectors from a file.

    Returns:
        The run: ``{query id: {document id: score}}``.
    """
    shutil.copy(collection.folder / "beir-topics.tsv", folder / "beir-topics.tsv")
    queries = folder / "queries.jsonl"
    pairs = zip(collection.queries, impacts, strict=True)
    queries.write_bytes(b"".join(cached_query_line(text, vector) for text, vector in pairs))
    command = commands(folder, str(queries), threads)["csplade"]
    run([LAUNCHER, *command], folder / "log.txt")
    found: dict[str, dict[str, float]] = {}
    for hit in ir_measures.read_trec_run(str(folder / "run.csplade.txt")):
        found.setdefault(hit.query_id, {})[hit.doc_id] = hit.score
    return found


def search_milliseconds(folder: Path, impacts: Impacts) -> float:
    """Return the median time in which an open index gives the best `HITS` documents of one query, from Python."""
    with LuceneIndex(folder / "index") as index:
        for vector in islice(cycle(impacts), WARM_UP):  # until Java has compiled what it runs often
            index.search(vector, HITS)
        seconds = []
        for vector in impacts:
            started = time.perf_counter()
            index.search(vector, HITS)
            seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def require_same_scores(where: str, run: dict[str, dict[str, float]], exact: dict[str, dict[str, int]]) -> None:
    """End the program with a line if Lucene's scores are not the products of the impacts.

    Args:
        where: What is searched, for the message.
        run: Lucene's run.
        exact: The products, of all documents of each query.
    """
    for query, hits in run.items():
        for document, score in hits.items():
            if abs(score - exact[query][document]) > NUDGE:
                raise SystemExit(
                    f"{where}: query {query}, document {document}: Lucene's score is {score}, the product of the "
                    f"impacts {exact[query][document]}: the index does not hold what was encoded"
                )

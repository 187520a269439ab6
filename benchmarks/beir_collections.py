"""Run unmodified Pyserini commands on real collections and print nDCG@10 of csplade beside BM25's.

    python benchmarks/beir_collections.py --data ../shared/data --work build/collections

Each collection is a BEIR directory (corpus.jsonl[.gz], queries.jsonl, qrels/test.tsv). The digests of the run files are
printed so that two Pyserini lines can be compared: the same digest is the same run, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import R, nDCG

COLLECTIONS = ("scifact", "nfcorpus", "cranfield", "cacm")
MEASURES = (nDCG @ 10, R @ 100)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file, or of its .gz where only that exists."""
    path = path if path.exists() else path.with_name(path.name + ".gz")
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def prepare(source: Path, folder: Path) -> None:
    """Lay a BEIR directory out as Pyserini's commands read it: contents, topics and TREC qrels.

    Pyserini picks the reader of a topics file by its path: "cacm" means SGML and "beir" means tab-separated text.
    """
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus" / "documents.jsonl").open("w", encoding="utf-8") as stream:
        for record in lines(source / "corpus.jsonl"):
            contents = " ".join(f"{record.get('title', '')} {record['text']}".split())
            stream.write(json.dumps({"id": record["_id"], "contents": contents}) + "\n")
    judged = [line.split("\t") for line in (source / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    (folder / "qrels.txt").write_text("".join(f"{query} 0 {document} {grade}\n" for query, document, grade in judged))
    queries = {query for query, _, _ in judged}
    with (folder / "beir-topics.tsv").open("w", encoding="utf-8") as stream:
        for record in lines(source / "queries.jsonl"):
            if record["_id"] in queries:
                stream.write(f"{record['_id']}\t{' '.join(record['text'].split())}\n")


def run(arguments: list[str], log: Path) -> float:
    """Print and run one command with this interpreter; return its wall time in seconds."""
    print("  python -m", shlex.join(arguments), flush=True)
    start = time.perf_counter()
    with log.open("a") as stream:
        finished = subprocess.run(
            [sys.executable, "-m", *arguments], stdout=stream, stderr=stream, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    if finished.returncode:
        raise SystemExit(f"{log}: the command above ended with exit code {finished.returncode}; the log says why")
    return time.perf_counter() - start


def commands(folder: Path, encoder: str, threads: int) -> dict[str, list[str]]:
    """Return the unmodified Pyserini commands of one collection, by step."""
    corpus, topics = str(folder / "corpus"), str(folder / "beir-topics.tsv")
    index = "pyserini.index.lucene --collection {} --input {} --index {} --generator DefaultLuceneDocumentGenerator"
    search = f"pyserini.search.lucene --index {{}} --topics {topics} --output {{}} --hits 1000 --threads {threads} {{}}"
    bm25_index = index.format("JsonCollection", corpus, folder / "bm25-index") + f" --threads {threads}"
    impact_index = index.format("JsonVectorCollection", folder / "vectors", folder / "index")
    encode = (
        f"pyserini.encode input --corpus {corpus} output --embeddings {folder / 'vectors'} "
        f"encoder --encoder {encoder} --batch-size 64 --device cpu"
    )
    steps = {
        "bm25 index": bm25_index,
        "bm25": search.format(folder / "bm25-index", folder / "run.bm25.txt", "--bm25 --k1 0.9 --b 0.4"),
        "encode": encode,
        "index": f"{impact_index} --threads {threads} --impact --pretokenized",
        "csplade": search.format(folder / "index", folder / "run.csplade.txt", f"--encoder {encoder} --impact"),
    }
    return {step: shlex.split(command) for step, command in steps.items()}


def measure(name: str, source: Path, folder: Path, encoder: str, threads: int) -> list[str]:
    """Run one collection and return its rows of the table."""
    prepare(source, folder)
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    seconds = {step: run(command, log) for step, command in commands(folder, encoder, threads).items()}
    documents = sum(1 for _ in (folder / "corpus" / "documents.jsonl").open())
    rows = []
    for system in ("bm25", "csplade"):
        path = folder / f"run.{system}.txt"
        qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.txt")))
        scores = ir_measures.calc_aggregate(MEASURES, qrels, ir_measures.read_trec_run(str(path)))
        speed = f"{60 * documents / seconds['encode']:.0f}" if system == "csplade" else "-"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        cells = [name, system, *(f"{scores[each]:.4f}" for each in MEASURES), speed, f"{seconds[system]:.1f}", digest]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Measure the collections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one BEIR directory a collection")
    parser.add_argument("--work", type=Path, default=Path("build/collections"), help="folder for indexes and runs")
    parser.add_argument("--collections", nargs="+", default=COLLECTIONS)
    parser.add_argument("--encoder", default="csplade")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.collections:
        print(name)
        rows += measure(name, arguments.data / name, arguments.work / name, arguments.encoder, arguments.threads)
    print("\n| collection | system | nDCG@10 | R@100 | documents/min | search s | run's SHA-256 |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()

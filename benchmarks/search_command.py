"""Seconds of the whole command ``python -m pyserini.search.lucene --impact``, from start to end, by encoder.

    python benchmarks/search_command.py --data ../shared/data --collection scifact --threads 2

All commands search the same index of the model's documents, made by Pyserini's commands if ``--work`` does not hold it
yet, for all topics of a BEIR directory.

- ``csplade``: the model's queries as they are by default, without a model.
- ``csplade torch``, ``csplade int8``: the same encoder with ``query_encoder=model``, in torch and in ONNX Runtime.
- ``pyserini splade``: Pyserini's SpladeQueryEncoder, which it takes for any name with ``splade`` in it, on a random
  BERT of the same width, depth and vocabulary, shifted until a query has about thirty terms.

Each command runs once before the rounds, which makes exports and fills the disk's cache; the rounds of all commands
alternate. Reported are medians.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from query_latency import prepared_index, prepared_topics, read_queries
from random_models import random_bert
from rounds import Figures, Measured, print_table, summary

OURS = {
    "csplade": "{}",
    "csplade torch": "{},query_encoder=model",
    "csplade int8": "{},query_encoder=model,precision=int8",
}
PEER = "pyserini splade"
WAYS = (*OURS, PEER)


def encoders(model: str, bert: Path) -> dict[str, str]:
    """Return each way's ``--encoder``."""
    return {**{way: name.format(model) for way, name in OURS.items()}, PEER: str(bert)}


def command(encoder: str, index: Path, topics: Path, output: Path, options: argparse.Namespace) -> list[str]:
    """Return a search command, without the interpreter."""
    words = ["-m", "pyserini.search.lucene", "--impact", "--encoder", encoder, "--index", str(index)]
    words += ["--topics", str(topics), "--output", str(output), "--hits", str(options.hits)]
    return [*words, "--threads", str(options.threads), "--batch-size", str(options.batch_size)]


def run(words: list[str]) -> tuple[float, str]:
    """Run a command. Returns its wall time in seconds, and why it failed, if it did."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    lines = done.stderr.strip().splitlines() or ["no message"]
    return seconds, lines[-1] if done.returncode else ""


def measure(words: dict[str, list[str]], rounds: int) -> Measured:
    """Run all commands once, and then some rounds of those that did not fail."""
    measured, runs = Measured(), {way: list[Figures]() for way in words}
    for number in range(rounds + 1):
        for way in [way for way in words if way not in measured.not_run]:
            seconds, failure = run(words[way])
            if failure:
                measured.not_run[way] = failure
            elif number:
                runs[way].append({"seconds": seconds})
    measured.figures = {way: summary(found) for way, found in runs.items() if way not in measured.not_run}
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one BEIR directory a collection")
    parser.add_argument("--collection", default="scifact")
    parser.add_argument("--work", type=Path, default=Path("build/collections"), help="as of beir_collections.py")
    parser.add_argument("--model", default="csplade", help="an encoder name with inference-free queries")
    parser.add_argument("--hits", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128, help="of the searches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    index = prepared_index(options)
    topics = prepared_topics(options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "PYSERINI_LLM_SPARSE_CACHE": folder,
            "OMP_NUM_THREADS": str(options.threads),
            "HF_HUB_OFFLINE": "1",
        }
        bert = Path(folder) / "splade-random"
        if PEER in options.ways:
            random_bert(bert, options.model, read_queries(topics, 16))
        names, output = encoders(options.model, bert), Path(folder) / "run.txt"
        words = {way: command(names[way], index, topics, output, options) for way in options.ways}
        measured = measure(words, options.rounds)
    measured.save(options.json)
    rows = [
        [way, f"{found['seconds']:.2f}", measured.ratio(way, PEER, "seconds")]
        for way, found in measured.figures.items()
    ]
    print_table(["encoder", "seconds", f"of {PEER}"], rows)
    measured.print_reasons()


if __name__ == "__main__":
    main()

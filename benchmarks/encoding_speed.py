"""Documents per second and peak memory of ways to encode the same documents, and each way's ratio to a peer.

    python benchmarks/encoding_speed.py --corpus ../shared/data/scifact/corpus.jsonl.gz --threads 2
    python benchmarks/encoding_speed.py --corpus ... --shape 768 12 2048 32000 --documents 64 --rounds 3

All but two encode with the same weights: the model of the package, or with ``--shape`` a random Llama (width, layers,
feed-forward, vocabulary), whose head is shifted until about a hundredth of the terms is active, as in a trained model.

- ``torch fp32``, ``torch bf16``, ``onnx fp32``, ``onnx int8`` and further precisions: this package.
- ``loop``: transformers as published code uses it: corpus order, batches padded to the longest, logits of all
  positions, dense rows to the host, a dict comprehension, json.dumps.
- ``sentence-transformers``: its SparseEncoder, the head as a Dense module, SpladePooling.
- ``pyserini splade``: Pyserini's SpladeDocumentEncoder on a random BERT of the same width, depth and vocabulary.
- ``splade``: this package on that BERT, in torch and float32.
- ``products fp32``, ``products bf16``, ``products int8``: nothing but the matrix products of the model's layers and
  head, of the padded batches that ours uses: what the machine gives in that precision (the share of the limit).

Each way runs in a process of its own that loads, encodes a part to warm up, and then encodes everything once a round;
the rounds of all ways alternate. Reported are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from beir_collections import lines
from peak_memory import peak
from peers import BATCH, Encode, loop, pyserini_splade, sentence_transformers
from products import products
from random_models import LENGTH, random_bert, random_llama
from rounds import Figures, Measured, alternate, print_table, serve

from pyserini_llm_sparse.onnx.runtime.precision import PRECISIONS

OURS = ("torch fp32", "torch bf16", *(f"onnx {precision}" for precision in PRECISIONS))
LIMITS = ("products fp32", "products bf16", "products int8")
WAYS = (*OURS, "loop", "sentence-transformers", "pyserini splade", "splade", *LIMITS)
WARM_UP = 16  # documents


def ours(model: str, way: str, threads: int, device: str = "cpu") -> Encode:
    """Return this package's encoder in a precision of torch or ONNX Runtime."""
    from pyserini_llm_sparse import SparseEncoder

    library, precision = way.split()
    options = {"dtype" if library == "torch" else "precision": precision}
    encoder = SparseEncoder.load(model, device=device, threads=threads, document_max_length=LENGTH, **options)
    return lambda texts: [json.dumps(vector) for vector in encoder.document_impacts(texts, batch_size=BATCH)]


def splade(model: str, threads: int) -> Encode:
    """Return this package's encoder on the BERT that Pyserini's own is measured with."""
    from pyserini_llm_sparse import SparseEncoder

    with tempfile.TemporaryDirectory() as folder:
        random_bert(Path(folder), model)
        encoder = SparseEncoder.load(folder, device="cpu", threads=threads, document_max_length=LENGTH)
        encoder.document_impacts(["loads the weights while the folder is there"])
    return lambda texts: [json.dumps(vector) for vector in encoder.document_impacts(texts, batch_size=BATCH)]


def load(way: str, model: str, texts: list[str], threads: int) -> Callable[[], Figures]:
    """Load a way and warm it up. Returns what encodes all texts once."""
    peers = {
        "loop": loop, "sentence-transformers": sentence_transformers, "pyserini splade": pyserini_splade,
        "splade": splade,
    }  # fmt: skip
    if way in LIMITS:
        encode = products(model, threads, way.split()[1])
    else:
        encode = peers[way](model, threads) if way in peers else ours(model, way, threads)
    encode(texts[:WARM_UP])

    def work() -> Figures:
        started = time.perf_counter()
        encode(texts)
        return {"documents_per_second": len(texts) / (time.perf_counter() - started), "peak_mb": peak()}

    return work


def read_texts(corpus: str, documents: int) -> list[str]:
    """Return documents of a corpus in BEIR's layout or in Pyserini's, spread evenly over it: their lengths are its."""
    path = Path(corpus)
    records = list(lines(path.with_suffix("") if path.suffix == ".gz" and not path.with_suffix("").exists() else path))
    count = min(documents, len(records))
    chosen = [records[number * len(records) // count] for number in range(count)]
    return [record.get("contents") or f"{record.get('title', '')} {record['text']}".strip() for record in chosen]


def measure(options: argparse.Namespace, model: str) -> Measured:
    """Run the rounds of all ways."""
    base = [__file__, "--corpus", options.corpus, "--model", model]
    base += ["--documents", options.documents, "--threads", options.threads, "--worker"]
    exporting = [way for way in options.ways if way.startswith("onnx")]
    return alternate({way: [*base, way] for way in options.ways}, options.rounds, twice=exporting)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="a BEIR corpus.jsonl or corpus.jsonl.gz")
    parser.add_argument("--model", default="csplade", help="an encoder name")
    parser.add_argument("--shape", type=int, nargs=4, metavar=("WIDTH", "LAYERS", "FEED_FORWARD", "VOCABULARY"))
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--peer", choices=WAYS, help="what ratios are to: torch fp32, or the last way")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        texts = read_texts(options.corpus, options.documents)
        serve(lambda: load(options.worker, options.model, texts, options.threads))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYSERINI_LLM_SPARSE_CACHE"] = folder  # exports of random models are nobody's
        model = options.model
        if options.shape:
            model = str(Path(folder) / "model")
            random_llama(Path(model), options.shape, read_texts(options.corpus, 2000))
        measured = measure(options, model)
    measured.save(options.json)
    peer = options.peer or ("torch fp32" if "torch fp32" in options.ways else options.ways[-1])
    rows = []
    for way, found in measured.figures.items():
        speed, ratio = found["documents_per_second"], measured.ratio(way, peer, "documents_per_second")
        rows.append([way, f"{speed:.1f}", ratio, f"{found['peak_mb']:,.0f}"])
    print_table(["way", "documents/s", f"of {peer}", "peak MB"], rows)
    measured.print_reasons()


if __name__ == "__main__":
    main()

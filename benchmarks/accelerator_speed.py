"""Documents per second on a GPU, as a share of what its matrix products alone reach, and the memory that it takes.

    python benchmarks/accelerator_speed.py --corpus ../shared/data/scifact/corpus.jsonl.gz --json accelerator.json
    python benchmarks/accelerator_speed.py --device cpu --shape 128 2 256 1000 --documents 32 --rounds 1    # a trial

The models are Llamas with random weights of about 0.1 and 1 billion parameters (or of ``--shape``: width, layers,
feed-forward, vocabulary). The documents are those of a BEIR corpus, or the demo's, repeated until there are enough.

- ``torch bf16``, ``torch fp16``, ``onnx fp16``, ``onnx int8`` and further precisions: this package.
- ``loop bf16``: transformers as published code uses it: corpus order, batches padded to the longest, logits of all
  positions, dense rows to the host, a dict comprehension, json.dumps. It is the peer of the ratios, and so slow that it
  gets no more than the first 512 documents.
- ``products bf16``: nothing but the matrix products of the model's layers and head in torch, of the padded batches that
  ours computes. It is the limit.

Each round of each way is a process of its own, alone on the device; the rounds of all ways alternate. Each loads,
encodes a part to warm up, and then everything. Reported are medians, of memory the largest. On a GPU memory is what
nvidia-smi says is used on it, less what was used before; on a CPU that of the process. A way that this machine or this
installation cannot run is named with the reason.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from encoding_speed import ours, read_texts
from output_speed import DEMO
from peak_memory import peak
from peers import Encode, loop
from products import products
from random_models import SHAPES, random_llama
from rounds import Figures, Measured, alternate, print_table, serve

from pyserini_llm_sparse.errors import ResourceError
from pyserini_llm_sparse.onnx.runtime.precision import PRECISIONS

OURS = ("torch bf16", "torch fp16", *(f"onnx {precision}" for precision in PRECISIONS if precision != "fp32"))
PEER, LIMIT = "loop bf16", "products bf16"
WAYS = (*OURS, PEER, LIMIT)
WARM_UP = 256  # documents
MOST_OF_PEER = 512


class DeviceMemory:
    """Watches the memory of a GPU that is used by anybody, and of a CPU that is used by this process."""

    def __init__(self, device: str) -> None:
        kind, _, number = device.partition(":")
        self._gpu = (number or "0") if kind == "cuda" else None
        self.before = self.largest = self._used() if self._gpu else 0.0
        if self._gpu:
            threading.Thread(target=self._watch, daemon=True).start()

    def peak_mb(self) -> float:
        """Return the most MB used so far, less those used before."""
        self.largest = max(self.largest, self._used()) if self._gpu else peak()
        return self.largest - self.before

    def _watch(self) -> None:
        while True:
            self.largest = max(self.largest, self._used())
            time.sleep(0.2)

    def _used(self) -> float:
        words = ["nvidia-smi", f"--id={self._gpu}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return float(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ResourceError: torch does not see it.
    """
    from pyserini_llm_sparse.modelling.backbone.devices import resolve_device

    resolve_device(device)


def load_encode(way: str, options: argparse.Namespace) -> Encode:
    """Load a way."""
    if way == LIMIT:
        return products(options.model, options.threads, "bf16", options.device)
    if way == PEER:
        return loop(options.model, options.threads, options.device, "bfloat16")
    return ours(options.model, way, options.threads, options.device)


def load(way: str, options: argparse.Namespace) -> Callable[[], Figures]:
    """Load a way and warm it up. Returns what encodes all documents once."""
    require_device(options.device)
    memory = DeviceMemory(options.device)
    texts = documents(options.corpus, min(options.documents, MOST_OF_PEER) if way == PEER else options.documents)
    started = time.perf_counter()
    encode = load_encode(way, options)
    encode(texts[:WARM_UP])
    loading = time.perf_counter() - started

    def work() -> Figures:
        started = time.perf_counter()
        encode(texts)
        speed = len(texts) / (time.perf_counter() - started)
        return {"documents_per_second": speed, "peak_mb": memory.peak_mb(), "loading_seconds": loading}

    return work


def documents(corpus: str, count: int) -> list[str]:
    """Return so many texts, those of the corpus again and again."""
    texts = read_texts(corpus, count)
    return [texts[number % len(texts)] for number in range(count)]


def measure(shape: list[int], options: argparse.Namespace) -> Measured:
    """Make a model of a shape and run the rounds of all ways."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYSERINI_LLM_SPARSE_CACHE"] = folder
        model = Path(folder) / "model"
        random_llama(model, shape, read_texts(options.corpus, 2000))
        base = [__file__, "--corpus", options.corpus, "--documents", options.documents, "--device", options.device]
        base += ["--threads", options.threads, "--model", model, "--worker"]
        commands = {way: [*base, way] for way in options.ways}
        exporting = [way for way in options.ways if way.startswith("onnx")]
        return alternate(commands, options.rounds, twice=exporting, together=False)


def print_result(name: str, measured: Measured) -> None:
    """Print the table of one model."""
    rows = []
    for way, found in measured.figures.items():
        ratios = [measured.ratio(way, other, "documents_per_second") for other in (LIMIT, PEER)]
        rows.append([way, f"{found['documents_per_second']:,.1f}", *ratios, f"{found['peak_mb']:,.0f}"])
    print_table([name, "documents/s", "share of the products", f"of {PEER}", "peak MB"], rows)
    measured.print_reasons()
    print(flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default=str(DEMO), help="a BEIR corpus.jsonl or corpus.jsonl.gz")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--shape", type=int, nargs=4, metavar=("WIDTH", "LAYERS", "FEED_FORWARD", "VOCABULARY"))
    parser.add_argument("--documents", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, help="write the figures here, too; one file a size")
    for hidden in ("--worker", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(lambda: load(options.worker, options))
        return
    try:
        require_device(options.device)
    except ResourceError as error:
        raise SystemExit(f"accelerator_speed: {error}") from error
    shapes = {"x".join(map(str, options.shape)): options.shape} if options.shape else SHAPES
    for name in [name for name in shapes if options.shape or name in options.sizes]:
        measured = measure(shapes[name], options)
        measured.save(options.json and options.json.with_stem(f"{options.json.stem}-{name}"))
        print_result(name, measured)


if __name__ == "__main__":
    main()

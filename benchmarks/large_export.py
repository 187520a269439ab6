"""A checkpoint of some gigabytes, with random weights: exported, loaded and run, with the peak memory of each step.

    python benchmarks/large_export.py --corpus ../shared/data/scifact/corpus.jsonl.gz --work build/large
    python benchmarks/large_export.py --corpus ... --shape 256 2 512 8000 --precision int4    # a trial

The default shape is Llama-3.2-1B's, but with as many key as query heads and an output layer of its own: 1.6 billion
parameters, 3.2 GB in bfloat16. Each step is a process of its own. An export compares itself with torch in float32 on
the package's texts, which is most of its time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from encoding_speed import read_texts
from peak_memory import peak
from random_models import SHAPES, random_llama
from rounds import print_table

STEPS = ("make", "export", "encode")


def step(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Make one step. Returns its seconds, peak memory in MB, and what there is to say."""
    model, export = options.work / "model", options.work / f"model-{options.precision}"
    texts = read_texts(options.corpus, 2000 if name == "make" else options.documents)
    started = time.perf_counter()
    said = ""
    if name == "make":
        random_llama(model, options.shape, texts, dtype="bfloat16")
        said = f"{bytes_of(model) / 1e9:.2f} GB"
    elif name == "export":
        from pyserini_llm_sparse.onnx.export.exporter import export_model
        from pyserini_llm_sparse.onnx.export.number_formats import in_words

        report = export_model(str(model), export, precision=options.precision, overwrite=True, note=print_error)
        errors = ", ".join(f"{name.replace('_', ' ')} {found:.3g}" for name, found in report.measured.items())
        said = f"{report.bytes / 1e9:.2f} GB in {report.build_seconds:.0f} s; {in_words(report.formats)}; {errors}"
    else:
        from pyserini_llm_sparse import SparseEncoder

        encoder = SparseEncoder.load(str(export), threads=options.threads)
        _ = encoder.engine
        loaded = time.perf_counter()
        impacts = encoder.document_impacts(texts)
        speed = len(texts) / (time.perf_counter() - loaded)
        terms = sum(map(len, impacts)) / len(impacts)
        said = f"loaded in {loaded - started:.1f} s; {speed:.2f} documents/s, {terms:.0f} terms"
    return {"step": name, "seconds": time.perf_counter() - started, "peak_mb": peak(), "said": said}


def print_error(text: str) -> None:
    """Print a note of the export, beside the figures."""
    print(text, file=sys.stderr, flush=True)


def bytes_of(folder: Path) -> int:
    """Return the size of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="a BEIR corpus.jsonl or corpus.jsonl.gz")
    parser.add_argument("--work", type=Path, default=Path("build/large"), help="folder for model and export")
    names = ("WIDTH", "LAYERS", "FEED_FORWARD", "VOCABULARY")
    parser.add_argument("--shape", type=int, nargs=4, metavar=names, default=SHAPES["1B"])
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step, options)))
        return
    figures = []
    for name in STEPS:
        command = [sys.executable, __file__, *sys.argv[1:], "--step", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures.append(json.loads(done.stdout.splitlines()[-1]))
        print_error(f"{name}: {figures[-1]['seconds']:.0f} s, peak {figures[-1]['peak_mb']:,.0f} MB")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print_table(
        ("step", "seconds", "peak MB", ""),
        [(row["step"], f"{row['seconds']:.0f}", f"{row['peak_mb']:,.0f}", row["said"]) for row in figures],
    )


if __name__ == "__main__":
    main()

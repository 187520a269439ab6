"""Measures the embedded model in all number formats, and its vectors pruned, on test collections; table and plots.

    python -m examples.quantization --data ../shared/data --work build/quantization

Each collection is a BEIR directory. All number formats are measured on the two small collections, float32 and int8 on
the two large ones; --precisions or --all choose others. Vectors are indexed and searched with Pyserini's commands.
A cell of the table that is finished is not measured again; the tables and the plots are made at the end, and with
--report at any time. What the machine cannot run is listed with the reason, and tried again the next time.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from examples.quantization import precisions, pruning
from examples.quantization.collection import Collection
from examples.quantization.report import write_report
from examples.quantization.settings import (
    COLLECTIONS,
    ENGINES,
    REFERENCE,
    cell,
    plan,
    read_cell,
    require_same_settings,
    write_cell,
)
from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.errors import LlmSparseError

log = logging.getLogger("quantization")


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not done yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with one BEIR directory a collection")
    parser.add_argument("--work", type=Path, default=Path("build/quantization"), help="folder for everything made")
    parser.add_argument("--collections", nargs="+", help=f"by default {' '.join(COLLECTIONS)}")
    parser.add_argument("--precisions", nargs="+", choices=ENGINES, metavar="PRECISION", help=", ".join(ENGINES))
    parser.add_argument("--all", action="store_true", help="all precisions on all collections")
    parser.add_argument("--skip-pruning", action="store_true", help="measure the precisions only")
    parser.add_argument("--model", default="csplade", help="an encoder name, of a torch model")
    parser.add_argument("--device", default="cpu", help="where the model runs (cpu)")
    parser.add_argument("--threads", type=int, default=2, help="of model, indexing and search (2)")
    parser.add_argument("--report", type=Path, help="only write table and plots of what there is, to this folder")
    options = parser.parse_args(arguments)
    if options.report is None:
        if options.data is None:
            parser.error("--data is needed")
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        log.setLevel(logging.INFO)
        fingerprint = SparseEncoder.load(options.model).spec.model_fingerprint
        settings = {"model fingerprint": fingerprint, "device": options.device, "threads": options.threads}
        require_same_settings(options.work, settings)
        for name, engines in plan(options.collections, options.precisions, options.all).items():
            _measure(name, engines, options)
    write_report(options.work, options.report or options.work)


def _measure(name: str, engines: tuple[str, ...], options: argparse.Namespace) -> None:
    """Measure one collection: the precisions, then pruning."""
    work: Path = options.work
    machine = precisions.Machine(options.device, options.threads)
    collection = Collection.load(options.data / name, work / "collections" / name)
    for engine in engines:
        path = cell(work, name, engine)
        if "queries" in read_cell(path):
            continue
        log.info("%s: %s", name, engine)
        try:
            figures = precisions.measure(engine, collection, options.model, work, machine)
        except LlmSparseError as error:
            if engine == REFERENCE:
                raise SystemExit(str(error)) from error
            figures = {"refused": str(error)}
        write_cell(path, figures)
        log.info("%s: %s: %s", name, engine, figures)
    if not options.skip_pruning:
        log.info("%s: pruning", name)
        try:
            pruning.measure(collection, options.model, work, machine)
        except LlmSparseError as error:
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

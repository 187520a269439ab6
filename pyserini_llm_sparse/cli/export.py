"""``export``: a model to a directory for ONNX Runtime, compared with torch before it is kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import print_json, say, still_at_work
from pyserini_llm_sparse.modelling.names import KEYWORD
from pyserini_llm_sparse.onnx.graph.body import BuilderChoice
from pyserini_llm_sparse.onnx.runtime.precision import Precision

NAME = "export"
HELP = """Export a model to ONNX, for ONNX Runtime.

The export is compared with the torch model on sample texts; one that differs by more than it may is not kept
(exit code 6). What was measured is in report.json beside it.
"""
EXAMPLES = (
    "export --precision int8 --output csplade-int8",
    "export --model my-model,document_max_length=512 --output my-model-onnx --corpus beir/scifact",
)


def command(
    output: Annotated[Path, typer.Option(help="Folder for the export; any --encoder takes it.")],
    model: options.Encoder = KEYWORD,
    precision: Annotated[
        Precision,
        typer.Option(help="fp32 is as exact as torch; int8 is the fastest on a CPU, fp16 on CUDA."),
    ] = "fp32",
    builder: Annotated[
        BuilderChoice,
        typer.Option(help="fused is the fastest; torch's exporter takes other models; auto gives way to it."),
    ] = "auto",
    optimum: Annotated[
        Path | None, typer.Option(help="What optimum-cli export onnx wrote for the model, perhaps elsewhere.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="A corpus whose first 64 documents are compared; by default texts of our own.")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    from pyserini_llm_sparse.onnx.export.exporter import export_model
    from pyserini_llm_sparse.onnx.export.number_formats import in_words

    with still_at_work(f"{output}: exporting"):
        report = export_model(
            model, output, precision=precision, builder=builder, optimum=optimum, corpus=corpus,
            overwrite=overwrite, note=say,
        )  # fmt: skip
    if as_json:
        print_json(asdict(report))
    measured = report.measured
    kept, correlation = 1 - measured["lost_top_terms"], 1 - measured["lost_rank_correlation"]
    say(f"{output}: {report.precision}, {report.bytes / 1e6:,.1f} MB; {in_words(report.formats)}")
    say(
        f"{output}: {kept:.1%} of the top terms are torch's, the largest difference of a weight is "
        f"{measured['weight_error']:.2g}, the rank correlation of scores {correlation:.4f}"
    )

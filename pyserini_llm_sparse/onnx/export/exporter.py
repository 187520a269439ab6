"""The export of a model to ONNX: graph, what an encoder needs beside it, and report; whole and verified, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from pyserini_llm_sparse.errors import PrerequisiteError, UsageError, one_line
from pyserini_llm_sparse.files.atomic import atomic_folder
from pyserini_llm_sparse.files.outputs import require_folder
from pyserini_llm_sparse.modelling.checkpoint import load_checkpoint
from pyserini_llm_sparse.modelling.encoding import EncodingCore
from pyserini_llm_sparse.modelling.folder import EXPORT_FILE, ModelFolder
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.torch_engine import TorchLoader
from pyserini_llm_sparse.onnx.export.attempts import Attempts, ExportReport
from pyserini_llm_sparse.onnx.graph.body import BuilderChoice
from pyserini_llm_sparse.onnx.graph.builders import known_builder
from pyserini_llm_sparse.onnx.runtime.description import REPORT_FILE
from pyserini_llm_sparse.onnx.runtime.precision import Precision, known_precision
from pyserini_llm_sparse.onnx.runtime.providers import cuda_problem
from pyserini_llm_sparse.onnx.runtime.session import require_runtime


def export_model(
    model: str,
    output: str | Path,
    *,
    precision: Precision = "fp32",
    builder: BuilderChoice = "auto",
    optimum: str | Path | None = None,
    corpus: str | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a model to a directory that `SparseEncoder.load` and every ``--encoder`` take.

    Args:
        model: An encoder name; fields of the spec that it changes are those of the export.
        output: The directory; only one that is empty or holds an export is written to.
        precision: One of `precision.PRECISIONS`.
        builder: Who builds the graph of the model's body: ``fused``, this package on ONNX Runtime's fused attention,
            ``torch``, torch's exporter, ``auto``, the second where the first refuses the model or is wrong, or
            ``optimum``, optimum's exporter where that is installed.
        optimum: The folder that ``optimum-cli export onnx`` wrote for the same model, perhaps in another environment.
        corpus: A corpus whose first documents are compared, instead of the package's own texts.
        overwrite: Replace an earlier export.
        note: Told what is being done.

    Raises:
        PrerequisiteError: onnx, onnxruntime or, for torch's exporter, onnxscript is missing or too old.
        UsageError: The model is an export itself, precision or builder are unknown, or the directory holds something
            else.
        DataError: No builder can express the model, or the one that was asked for cannot.
        RunError: The export differs from torch by more than it may; nothing is written.
        LlmSparseError: The model cannot be loaded, or the directory cannot be written.
    """
    known_precision(precision)
    builder = _builder(builder, optimum)
    require_folder(Path(output), overwrite, "ONNX export", [EXPORT_FILE])
    require_onnx()
    reference = parse_encoder_name(model)
    if reference.precision is not None:
        raise UsageError(f"{model}: precision={reference.precision}: an option of its own; leave it out of the name")
    folder = ModelFolder.find(reference)
    if folder.is_export:
        raise UsageError(f"{model}: an ONNX export already; export the model that it was made from")
    source = TorchLoader(load_checkpoint(reference, folder), "cpu", "float32")
    return export_checkpoint(
        source,
        output,
        precision=precision,
        model=model,
        builder=builder,
        optimum=optimum,
        corpus=corpus,
        overwrite=overwrite,
        note=note,
    )


def export_checkpoint(
    source: TorchLoader,
    output: str | Path,
    *,
    precision: Precision,
    model: str,
    builder: BuilderChoice = "auto",
    optimum: str | Path | None = None,
    corpus: str | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a checkpoint.

    Args:
        source: Loads it with torch, on the CPU and in float32.
        output: As for `export_model`, and so are all others.
        precision: One of `precision.PRECISIONS`.
        model: The model's name for the report.
        builder: As for `export_model`.
        optimum: The same.
        corpus: A corpus whose first documents are compared.
        overwrite: Replace an earlier export.
        note: Told what is being done.

    Raises:
        LlmSparseError: See `export_model`.
    """
    output = Path(output)
    require_folder(output, overwrite, "ONNX export", [EXPORT_FILE])
    require_onnx()
    require_runtime()
    _require_kernels(precision)
    from pyserini_llm_sparse.onnx.export.verification import sample_documents

    documents = sample_documents(corpus)
    with atomic_folder(output) as folder:
        report = replace(
            Attempts(EncodingCore(source.checkpoint, source), precision, documents, note, builder, optimum).write(
                folder, output
            ),
            model=model,
            corpus=corpus,
        )
        (folder / REPORT_FILE).write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2) + b"\n")
    return report


def _builder(asked: str, optimum: str | Path | None) -> BuilderChoice:
    """Return the builder of that name; what optimum wrote speaks for itself.

    Raises:
        UsageError: There is none of that name, or the two contradict each other.
    """
    builder = known_builder(asked)
    if optimum is not None and builder not in ("auto", "optimum"):
        raise UsageError(f"builder {asked}: {optimum} was built by optimum; leave one of the two out")
    return builder if optimum is None else "optimum"


def require_onnx() -> None:
    """Check that the package onnx is there.

    Raises:
        PrerequisiteError: It cannot be imported.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise PrerequisiteError(
            f"onnx: cannot be imported: {one_line(error)}; pip install 'pyserini-llm-sparse[onnx]'"
        ) from error


def _require_kernels(precision: Precision) -> None:
    """Refuse what could not be compared with torch here."""
    if precision == "bf16" and (problem := cuda_problem()):
        raise PrerequisiteError(
            "precision bf16: ONNX Runtime computes it on a GPU alone, where an export must be compared with torch: "
            f"{problem.what}; {problem.remedy}, or export in fp16"
        )

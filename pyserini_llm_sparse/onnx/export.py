"""Exports an encoder to ONNX: the graph, what an encoder needs beside it, and a report; whole and verified or not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from pyserini_llm_sparse import __version__
from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import PrerequisiteError, RunError, UsageError, one_line
from pyserini_llm_sparse.formats.writers import atomic_folder
from pyserini_llm_sparse.onnx.description import (
    DESCRIPTION_FILE,
    GRAPH_FILE,
    REPORT_FILE,
    WEIGHTS_FILE,
    ExportDescription,
    Part,
    Precision,
    export_digest,
    known_precision,
)
from pyserini_llm_sparse.onnx.session import require_runtime
from pyserini_llm_sparse.query_terms import save_query_term_weights

if TYPE_CHECKING:
    from pyserini_llm_sparse.onnx.calibration import HeadCalibration
    from pyserini_llm_sparse.onnx.verification import Difference

# The parts that are quantised, the fastest choice first. After the head, whose logits are computed again where it
# matters, errors of attention cost the most terms, and the feed-forward network does most of the work.
ATTEMPTS: dict[Precision, tuple[tuple[Part, ...], ...]] = {
    "fp32": ((),),
    "int8": (("attention", "feed_forward", "head"), ("feed_forward", "head"), ("head",)),
}

_WITHOUT_TOP_K: dict[str, Any] = {"query_top_k": None, "document_top_k": None}


@dataclass(frozen=True)
class ExportReport:
    """What an export is and how far it is from torch; kept beside it.

    Attributes:
        precision: Number format of the export.
        quantised: The parts of the model that are in int8.
        measured: See `verification.Difference`.
        bounds: How large each may be.
        documents: Number of texts that it was measured on.
        bytes: Size of the graph with its weights.
        build_seconds: Time that writing it took.
        verify_seconds: Time that the comparison took.
        versions: Versions of the packages that took part.
        model: Name of the model, as it was given.
        corpus: Where the texts come from; None for those of the package.
    """

    precision: Precision
    quantised: tuple[Part, ...]
    measured: dict[str, float]
    bounds: dict[str, float]
    documents: int
    bytes: int
    build_seconds: float
    verify_seconds: float
    versions: dict[str, str]
    model: str = ""
    corpus: str | None = None


def export_model(
    model: str,
    output: str | Path,
    *,
    precision: Precision = "fp32",
    corpus: str | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export an encoder to a directory that `SparseEncoder.load` and every ``--encoder`` take.

    Args:
        model: An encoder name; fields of the spec that it changes are those of the export.
        output: The directory; only one that is empty or holds an export is written to.
        precision: ``fp32`` or ``int8``.
        corpus: A corpus whose first documents are compared, instead of the package's own texts.
        overwrite: Replace an earlier export.
        note: Told what is being done.

    Raises:
        PrerequisiteError: onnx or onnxruntime is missing or too old.
        UsageError: The model is an export itself, the precision is unknown, or the directory holds something else.
        DataError: The graph cannot express the model.
        RunError: The export differs from torch by more than it may; nothing is written.
        LlmSparseError: The model cannot be loaded, or the directory cannot be written.
    """
    known_precision(precision)
    _require_free(Path(output), overwrite)
    require_onnx()
    reference = SparseEncoder.load(model, device="cpu")  # where it computes in float32
    if reference.checkpoint.export is not None:
        raise UsageError(f"{model}: an ONNX export already; export the model that it was made from")
    return export_encoder(
        reference, output, precision=precision, model=model, corpus=corpus, overwrite=overwrite, note=note
    )


def export_encoder(
    reference: SparseEncoder,
    output: str | Path,
    *,
    precision: Precision,
    model: str,
    corpus: str | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export an encoder that is loaded, from torch, on the CPU and in float32.

    Args:
        reference: The encoder.
        output: As for `export_model`, and so are all others.
        precision: ``fp32`` or ``int8``.
        model: The encoder's name for the report.
        corpus: A corpus whose first documents are compared.
        overwrite: Replace an earlier export.
        note: Told what is being done.

    Raises:
        LlmSparseError: See `export_model`.
    """
    output = Path(output)
    _require_free(output, overwrite)
    require_onnx()
    require_runtime()
    from pyserini_llm_sparse.onnx.verification import sample_documents

    documents = sample_documents(corpus)
    with atomic_folder(output) as folder:
        report = replace(
            _Export(reference, precision, documents, note).write(folder, output), model=model, corpus=corpus
        )
        (folder / REPORT_FILE).write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2) + b"\n")
    return report


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


def _require_free(output: Path, overwrite: bool) -> None:
    """Refuse a directory that holds anything but an export that may be replaced."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file, and is not overwritten; choose another directory")
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / DESCRIPTION_FILE).is_file():
        raise UsageError(f"{output}: holds files but no ONNX export, and is not overwritten; choose another directory")
    if not overwrite:
        raise UsageError(f"{output}: holds an ONNX export; choose another directory, or give --overwrite to replace it")


class _Export:
    """Writes a model's graph, in int8 with fewer and fewer parts until it is within the bounds."""

    def __init__(
        self, reference: SparseEncoder, precision: Precision, documents: list[str], note: Callable[[str], None]
    ) -> None:
        from pyserini_llm_sparse.onnx.decoder import read_decoder
        from pyserini_llm_sparse.onnx.verification import Comparison

        checkpoint = reference.checkpoint
        self._checkpoint = checkpoint
        self._precision = precision
        self._documents = documents
        self._note = note
        self._decoder = read_decoder(checkpoint.backbone, checkpoint.spec)
        whole = replace(checkpoint, spec=checkpoint.spec.replace(**_WITHOUT_TOP_K))
        self._comparison = Comparison(SparseEncoder(whole), documents)
        self._calibration = self._calibrated(reference) if precision == "int8" else None

    def write(self, folder: Path, output: Path) -> ExportReport:
        """Fill a folder with all but the report, and return that.

        Args:
            folder: The folder.
            output: What it will be called, for messages.

        Raises:
            RunError: Whatever is quantised, it is out of bounds.
        """
        from pyserini_llm_sparse.onnx.verification import BOUNDS

        bounds, beyond = BOUNDS[self._precision], [""]
        for quantised in ATTEMPTS[self._precision]:
            started = time.monotonic()
            self._write_files(folder, quantised)
            written = time.monotonic()
            measured = self._measured(folder)
            if not (beyond := measured.beyond(bounds)):
                return ExportReport(
                    precision=self._precision,
                    quantised=quantised,
                    measured=measured.as_dict(),
                    bounds=bounds.as_dict(),
                    documents=len(self._documents),
                    bytes=sum((folder / name).stat().st_size for name in (GRAPH_FILE, WEIGHTS_FILE)),
                    build_seconds=round(written - started, 2),
                    verify_seconds=round(time.monotonic() - written, 2),
                    versions=_versions(),
                )
            tried = f"with {', '.join(quantised)} in int8" if quantised else "in float32"
            self._note(f"{output}: {tried}: out of bounds: {'; '.join(beyond)}")
        remedy = "export with --precision fp32" if self._precision == "int8" else "encode with the torch model"
        raise RunError(
            f"{output}: not written: the {self._precision} export differs from torch by more than it may on "
            f"{len(self._documents)} texts: {'; '.join(beyond)}; {remedy}, or compare texts of your own with --corpus"
        )

    def _calibrated(self, reference: SparseEncoder) -> HeadCalibration:
        import torch

        from pyserini_llm_sparse.onnx.calibration import calibrate_head

        texts = [text for text in reference.tokenization.token_ids(self._documents, "document") if text.ids]
        allowed = torch.from_numpy(self._checkpoint.allowed)
        return calibrate_head(self._checkpoint.backbone, reference.tokenization, texts, allowed)

    def _write_files(self, folder: Path, quantised: tuple[Part, ...]) -> None:
        from pyserini_llm_sparse.onnx.graph import INPUTS, OUTPUTS, write_encoder
        from pyserini_llm_sparse.onnx.products import products_of
        from pyserini_llm_sparse.onnx.writer import GraphWriter

        checkpoint = self._checkpoint
        with (folder / WEIGHTS_FILE).open("wb") as stream:
            writer = GraphWriter(stream, WEIGHTS_FILE)
            write_encoder(
                writer, products_of(quantised, writer), self._decoder, checkpoint.spec.logit_scale, checkpoint.allowed,
                self._calibration if "head" in quantised else None,
            )  # fmt: skip
        writer.save(folder / GRAPH_FILE, INPUTS, OUTPUTS, f"pyserini-llm-sparse {__version__}")
        checkpoint.tokenizer.save(folder)
        checkpoint.spec.save(folder)
        if checkpoint.query_term_weights is not None:
            save_query_term_weights(folder, checkpoint.query_term_weights, checkpoint.vocabulary_size)
        description = ExportDescription(
            precision=self._precision,
            quantised=quantised,
            vocabulary_size=checkpoint.vocabulary_size,
            positions=self._decoder.positions,
            digest=export_digest(folder, checkpoint.tokenizer),
        )
        (folder / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _measured(self, folder: Path) -> Difference:
        """Compare what was written, loaded as a user would, with torch.

        The session ends here: where files cannot be moved while they are open, it must not outlive the comparison.
        """
        return self._comparison.difference(SparseEncoder.load(str(folder), **_WITHOUT_TOP_K))


def _versions() -> dict[str, str]:
    packages = ("onnx", "onnxruntime", "torch", "transformers")
    return {name: metadata.version(name) for name in packages} | {"pyserini-llm-sparse": __version__}

"""Attempts at an export, the fastest way first, until one is as close to torch as it must be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyserini_llm_sparse.errors import RunError, UsageError
from pyserini_llm_sparse.modelling.encoding import EncodingCore
from pyserini_llm_sparse.modelling.engine import LoadedEngine
from pyserini_llm_sparse.modelling.folder import EXPORT_FILE, ModelFolder
from pyserini_llm_sparse.modelling.names import ModelReference
from pyserini_llm_sparse.modelling.query_table import save_query_term_weights
from pyserini_llm_sparse.modelling.torch_engine import TorchEngine
from pyserini_llm_sparse.onnx.export.number_formats import (
    ATTEMPTS,
    QUANTISED,
    Formats,
    in_words,
    products_of,
    same_formats,
)
from pyserini_llm_sparse.onnx.graph.body import Builder, BuilderChoice
from pyserini_llm_sparse.onnx.graph.builders import OPTIMUM_IGNORES, build_body, build_with_torch
from pyserini_llm_sparse.onnx.runtime.description import GRAPH_FILE, WEIGHTS_FILE, ExportDescription, export_digest
from pyserini_llm_sparse.onnx.runtime.loading import load_export
from pyserini_llm_sparse.onnx.runtime.precision import Precision
from pyserini_llm_sparse.version import __version__

if TYPE_CHECKING:
    from pyserini_llm_sparse.onnx.export.verification import Difference
    from pyserini_llm_sparse.onnx.graph.calibration import HeadCalibration

_WITHOUT_TOP_K: dict[str, Any] = {"query_top_k": None, "document_top_k": None}


@dataclass(frozen=True)
class ExportReport:
    """What an export is and how far it is from torch; kept beside it.

    Attributes:
        precision: Number format of the export.
        builder: Who built the graph of the model's body.
        formats: How each part of the model multiplies.
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
    builder: Builder
    formats: Formats
    measured: dict[str, float]
    bounds: dict[str, float]
    documents: int
    bytes: int
    build_seconds: float
    verify_seconds: float
    versions: dict[str, str]
    model: str = ""
    corpus: str | None = None


class Attempts:
    """Writes a model's graph, with quantised parts in slower and slower formats until it is within the bounds.

    A fused graph that is beyond them even in float32 gives way to torch's exporter.
    """

    def __init__(
        self,
        reference: EncodingCore,
        precision: Precision,
        documents: list[str],
        note: Callable[[str], None],
        builder: BuilderChoice = "auto",
        optimum: str | Path | None = None,
    ) -> None:
        """Build the graph's body, encode the texts with torch, and calibrate what is to be quantised.

        Args:
            reference: The model with torch's engine, on the CPU and in float32.
            precision: Number format of the export.
            documents: Texts to compare.
            note: Told what is being done.
            builder: Who builds the body.
            optimum: What optimum's exporter wrote.

        Raises:
            LlmSparseError: As `exporter.export_model` says.
        """
        from pyserini_llm_sparse.onnx.export.verification import Comparison

        checkpoint, engine = reference.checkpoint, reference.engine
        if not isinstance(engine, TorchEngine):
            raise UsageError(f"{checkpoint.folder}: not a model of torch; export the model that it was made from")
        self._checkpoint = checkpoint
        self._backbone = engine.backbone
        self._tokenization = reference.tokenization
        self._precision = precision
        self._documents = documents
        self._note = note
        self._choice = builder
        self._body = build_body(self._backbone, checkpoint.spec, builder, note, optimum)
        whole = replace(checkpoint, spec=checkpoint.spec.replace(**_WITHOUT_TOP_K))
        self._comparison = Comparison(EncodingCore(whole, LoadedEngine(reference.loader, engine)), documents)
        self._calibration = self._calibrated() if precision in QUANTISED else None

    def write(self, folder: Path, output: Path) -> ExportReport:
        """Fill a folder with all but the report, and return that.

        Args:
            folder: The folder.
            output: What it will be called, for messages.

        Raises:
            RunError: Whatever is quantised, it is out of bounds.
            LlmSparseError: Torch's exporter, which was to take over, refuses the model.
        """
        report, beyond = self._first_within_bounds(folder, output)
        if report is None and (wrong := self._wrong_where_another_builder_helps(folder, beyond)):
            reason = f"{output}: the fused graph differs from torch: {', '.join(wrong)}"
            self._body = build_with_torch(self._backbone, self._checkpoint.spec, reason, self._note)
            report, beyond = self._first_within_bounds(folder, output)
        if report is not None:
            return report
        remedy = "encode with the torch model"
        if self._precision != "fp32":
            remedy = "export with --precision fp32"
        elif self._body.builder == "optimum":
            remedy = f"{OPTIMUM_IGNORES}: export with --builder auto, or with --builder optimum where that is installed"
        raise RunError(
            f"{output}: not written: the {self._precision} export differs from torch by more than it may on "
            f"{len(self._documents)} texts: {'; '.join(beyond)}; {remedy}, or compare texts of your own with --corpus"
        )

    def write_files(self, folder: Path, formats: Formats) -> None:
        """Fill a folder with an export, whatever its difference from torch.

        Args:
            folder: The folder.
            formats: How each part of the model multiplies.

        Raises:
            LlmSparseError: The files cannot be written.
        """
        from pyserini_llm_sparse.onnx.graph.fused import INPUTS, OUTPUTS, write_encoder
        from pyserini_llm_sparse.onnx.graph.writer import GraphWriter

        checkpoint = self._checkpoint
        with (folder / WEIGHTS_FILE).open("wb") as stream:
            writer = GraphWriter(stream, WEIGHTS_FILE)
            write_encoder(
                writer,
                products_of(formats, writer),
                self._body,
                checkpoint.spec.logit_scale,
                checkpoint.allowed,
                self._calibration if formats["head"] == "int8" else None,
                None if checkpoint.folding is None else checkpoint.folding.term_of,
            )
        writer.save(folder / GRAPH_FILE, INPUTS, OUTPUTS, f"pyserini-llm-sparse {__version__}")
        checkpoint.tokenizer.save(folder)
        checkpoint.spec.save(folder)
        if checkpoint.query_term_weights is not None:
            save_query_term_weights(folder, checkpoint.query_term_weights, checkpoint.vocabulary_size)
        description = ExportDescription(
            precision=self._precision,
            formats=formats,
            vocabulary_size=checkpoint.vocabulary_size,
            positions=self._body.positions,
            digest=export_digest(folder, checkpoint.tokenizer),
        )
        (folder / EXPORT_FILE).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _first_within_bounds(self, folder: Path, output: Path) -> tuple[ExportReport | None, list[str]]:
        """Return the report of the first attempt that is within the bounds, or None and what is beyond in the last."""
        from pyserini_llm_sparse.onnx.export.verification import BOUNDS

        bounds, beyond = BOUNDS[self._precision], [""]
        for formats in ATTEMPTS[self._precision]:
            started = time.monotonic()
            self.write_files(folder, formats)
            written = time.monotonic()
            measured = self._measured(folder)
            if not (beyond := measured.beyond(bounds)):
                return ExportReport(
                    precision=self._precision,
                    builder=self._body.builder,
                    formats=formats,
                    measured=measured.as_dict(),
                    bounds=bounds.as_dict(),
                    documents=len(self._documents),
                    bytes=sum((folder / name).stat().st_size for name in (GRAPH_FILE, WEIGHTS_FILE)),
                    build_seconds=round(written - started, 2),
                    verify_seconds=round(time.monotonic() - written, 2),
                    versions=_versions(self._body.builder),
                ), []
            self._note(f"{output}: with {in_words(formats)}: out of bounds: {'; '.join(beyond)}")
        return None, beyond

    def _wrong_where_another_builder_helps(self, folder: Path, beyond: list[str]) -> list[str]:
        """Return what is out of bounds in float32 if torch's exporter may take over: it does not round any better."""
        from pyserini_llm_sparse.onnx.export.verification import BOUNDS

        if self._choice != "auto" or self._body.builder == "torch":
            return []
        if self._precision == "fp32":
            return beyond
        self.write_files(folder, same_formats("float32"))
        return self._measured(folder).beyond(BOUNDS["fp32"])

    def _measured(self, folder: Path) -> Difference:
        """Compare what was written, loaded as a user would, with torch.

        The session ends here: where files cannot be moved while they are open, it must not outlive the comparison.
        """
        return self._comparison.difference(
            EncodingCore(*load_export(ModelReference(str(folder), _WITHOUT_TOP_K), ModelFolder.at(folder)))
        )

    def _calibrated(self) -> HeadCalibration:
        import torch

        from pyserini_llm_sparse.onnx.graph.calibration import calibrate_head

        texts = [text for text in self._tokenization.token_ids(self._documents, "document") if text.ids]
        allowed = torch.from_numpy(self._checkpoint.allowed)
        with self._body.calibrate():  # one pass of the texts serves body and head
            return calibrate_head(self._backbone, self._tokenization, texts, allowed)


def _versions(builder: Builder) -> dict[str, str]:
    packages = ["onnx", "onnxruntime", "torch", "transformers", *([] if builder == "fused" else ["onnxscript"])]
    return {name: metadata.version(name) for name in packages} | {"pyserini-llm-sparse": __version__}

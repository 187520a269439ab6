"""An export found on disk: its checkpoint, and ONNX Runtime as the engine that computes its vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint, find_tokenizer, query_term_weights
from pyserini_llm_sparse.modelling.contract import checkpoint_spec, warn_of_long_texts
from pyserini_llm_sparse.modelling.folder import EXPORT_FILE, ModelFolder
from pyserini_llm_sparse.modelling.names import FASTEST, ModelReference
from pyserini_llm_sparse.onnx.runtime.description import ExportDescription, read_description, require_fields_in_graph
from pyserini_llm_sparse.onnx.runtime.precision import known_precision
from pyserini_llm_sparse.onnx.runtime.providers import device_number, export_device

if TYPE_CHECKING:
    from pyserini_llm_sparse.onnx.runtime.session import OnnxEngine


@dataclass(frozen=True)
class ExportLoader:
    """Loads an export with ONNX Runtime, which is not imported before; see `EngineLoader`.

    Attributes:
        folder: The export's directory.
        description: What it says about itself.
        asked_device: Where it shall run; None to choose by its precision.
        threads: CPU threads; None for all cores.
    """

    folder: Path
    description: ExportDescription
    asked_device: str | None = None
    threads: int | None = None

    @property
    def precision(self) -> str:
        """``onnx`` and the export's precision."""
        return f"onnx {self.description.precision}"

    @property
    def device(self) -> str:
        """Where it will run."""
        return export_device(self.asked_device, self.description.precision)

    def prepare(self) -> Path:
        """Return the export's directory: there is nothing to be made."""
        return self.folder

    def load(self) -> OnnxEngine:
        """Open a session.

        Raises:
            LlmSparseError: See `OnnxEngine`.
        """
        from pyserini_llm_sparse.onnx.runtime.session import OnnxEngine

        return OnnxEngine(self.folder, self.description, self.threads, self.asked_device)


def load_export(
    reference: ModelReference,
    folder: ModelFolder,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Checkpoint, ExportLoader]:
    """Find what an export's directory holds; the graph is not loaded yet.

    Args:
        reference: The model.
        folder: Its directory, with an export in it.
        device: Where it shall run; None to choose by its precision.
        dtype: What torch was asked for: an export has its own.
        threads: CPU threads.

    Raises:
        ResourceError: A file is missing.
        UsageError: Device, dtype, precision or a field of the spec is not what the export is for.
        DataError: A file is not in order.
        SpecMismatchError: The files are not those of the export.
    """
    export = read_description(folder.path)
    if export is None:
        raise DataError(f"{folder.path / EXPORT_FILE}: is gone while the export was loaded; give the command again")
    _require_fit(reference, folder.path, export, device, dtype)
    base = folder.base(reference)  # an export has none: one that is named is refused
    tokenizer = find_tokenizer(folder, reference, base)
    spec = checkpoint_spec(folder, reference, tokenizer, {})
    warn_of_long_texts(folder.path, spec, export.positions)
    export.require_unchanged(folder.path, tokenizer)
    require_fields_in_graph(folder.path, spec)
    checkpoint = Checkpoint(
        spec=spec,  # an export keeps the fingerprint of its model: their vectors belong into one index
        tokenizer=tokenizer,
        tokens=tokenizer.tokens(export.vocabulary_size),
        folder=folder.path,
        query_term_weights=query_term_weights(folder.path, spec, export.vocabulary_size),
        made_by=reference.made_by,
    )
    return checkpoint, ExportLoader(folder.path, export, device, threads)


def _require_fit(
    reference: ModelReference, folder: Path, export: ExportDescription, device: str | None, dtype: str | None
) -> None:
    """Refuse a device, type or precision that an export was not made for."""
    device_number(device or "cpu")
    if dtype is not None and dtype.replace("float32", "fp32") not in ("auto", export.precision):
        raise UsageError(f"{folder}: dtype {dtype}: this ONNX export computes in {export.precision}; leave dtype out")
    asked = reference.precision
    if asked is not None and asked not in (export.precision, FASTEST):
        known_precision(asked)
        raise UsageError(
            f"{reference.model}: precision {asked}: an ONNX export in {export.precision}; leave precision out"
        )

"""The cache of exports: made at the first use of a precision, and kept for all later ones."""

from __future__ import annotations

import glob
import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.files.cache import cache_folder
from pyserini_llm_sparse.files.work import LOCK
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.modelling.torch_engine import TorchLoader
from pyserini_llm_sparse.onnx.runtime.description import FIELDS_IN_GRAPH, ExportDescription, read_description
from pyserini_llm_sparse.onnx.runtime.loading import ExportLoader
from pyserini_llm_sparse.onnx.runtime.precision import Precision
from pyserini_llm_sparse.onnx.runtime.providers import device_number, export_device, require_cuda
from pyserini_llm_sparse.version import __version__

if TYPE_CHECKING:
    from pyserini_llm_sparse.onnx.runtime.session import OnnxEngine

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedExportLoader:
    """Loads the export of a checkpoint in a precision, which is made if there is none yet; see `EngineLoader`.

    Attributes:
        checkpoint: The model.
        export_precision: Of the export.
        asked_device: Where it shall run; None to choose by the precision.
        threads: CPU threads; None for all cores.
    """

    checkpoint: Checkpoint
    export_precision: Precision
    asked_device: str | None = None
    threads: int | None = None

    @property
    def precision(self) -> str:
        """``onnx`` and the export's precision."""
        return f"onnx {self.export_precision}"

    @property
    def device(self) -> str:
        """Where it will run."""
        return export_device(self.asked_device, self.export_precision)

    def prepare(self) -> Path:
        """Return the folder of the export; it is made now if there is none yet.

        Raises:
            LlmSparseError: See `exporter.export_checkpoint`.
        """
        return self._export().folder

    def load(self) -> OnnxEngine:
        """Open a session.

        Raises:
            LlmSparseError: See `prepare` and `OnnxEngine`.
        """
        return self._export().load()

    @property
    def folder(self) -> Path:
        """Where the export is or will be.

        The name holds a digest of what the graph depends on: the model, some fields of its spec, and the version of
        this package.
        """
        in_graph = [getattr(self.checkpoint.spec, name) for name in ("model_fingerprint", *FIELDS_IN_GRAPH)]
        key = hashlib.sha256(f"{__version__} {in_graph}".encode()).hexdigest()
        return cache_folder() / "exports" / f"{self.checkpoint.folder.name}-{self.export_precision}-{key[:16]}"

    def _export(self) -> ExportLoader:
        if (number := device_number(self.device)) is not None:
            require_cuda(number)  # before minutes are spent on an export
        folder = self.folder
        found = self._whole()
        if found is None:
            found = self._made_alone()
        return ExportLoader(folder, found, self.asked_device, self.threads)

    def _whole(self) -> ExportDescription | None:
        """Return what the entry says of itself, None if there is none or it fails its check."""
        folder = self.folder
        try:
            found = read_description(folder)
            if found is not None:
                found.require_unchanged(folder, self.checkpoint.tokenizer)
        except (DataError, ResourceError) as error:
            _logger.warning("%s; it is in the cache, and is made again", error)
            return None
        return found

    def _made_alone(self) -> ExportDescription:
        """Make the entry while no other process does; one that was made meanwhile is taken.

        Raises:
            LlmSparseError: See `exporter.export_checkpoint`.
        """
        folder = self.folder
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{folder.name}.{LOCK}"):
            if (found := self._whole()) is not None:
                return found
            with disk_errors(folder):
                # of processes that were killed: nobody else is at this entry
                for left in (folder, *folder.parent.glob(f".{glob.escape(folder.name)}.*")):
                    if left.is_dir():
                        shutil.rmtree(left)
            self._make(folder)
            found = read_description(folder)
        if found is None:
            raise ResourceError(f"{folder}: the export vanished while it was made; give the command again")
        found.require_unchanged(folder, self.checkpoint.tokenizer)
        return found

    def _make(self, folder: Path) -> None:
        from pyserini_llm_sparse.onnx.export.exporter import export_checkpoint

        checkpoint = self.checkpoint
        _logger.warning("%s: precision %s: exporting to %s, once", checkpoint.folder, self.export_precision, folder)
        source = TorchLoader(checkpoint, "cpu", "float32", self.threads)
        export_checkpoint(
            source, folder, precision=self.export_precision, model=str(checkpoint.folder), note=_logger.warning
        )

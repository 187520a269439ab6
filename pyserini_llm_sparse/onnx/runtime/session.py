"""ONNX Runtime as the engine of an encoder: one session over an export's graph."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import (
    DataError,
    OutOfMemoryError,
    PrerequisiteError,
    ResourceError,
    RunError,
    UsageError,
    one_line,
    require_version,
)
from pyserini_llm_sparse.modelling.engine import best_batch_tokens
from pyserini_llm_sparse.modelling.tokenization import TokenizedText
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from pyserini_llm_sparse.onnx.runtime.description import GRAPH_FILE, ExportDescription
from pyserini_llm_sparse.onnx.runtime.providers import (
    CPU_PROVIDER,
    CUDA_PRECISIONS,
    CUDA_PROVIDER,
    available_providers,
    device_number,
    export_device,
    installed_runtimes,
    provider_options,
    require_cuda,
)
from pyserini_llm_sparse.system import allowed_cores, multiplies_int8

LEAST_VERSION = (1, 30)  # the first whose attention goes both ways
OUTPUTS = ("term_ids", "weights")
_SILENT = 4  # errors come as exceptions; the library would print them as well
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad allocation", "bad_alloc", "ALLOC_FAILED")

_logger = logging.getLogger(__name__)


class OnnxEngine:
    """Computes vectors with ONNX Runtime. Batches are padded on the right, as the graph needs it.

    Attributes:
        batch_tokens: See `Engine`.
        session: The library's session.
    """

    def __init__(
        self, folder: Path, description: ExportDescription, threads: int | None = None, device: str | None = None
    ) -> None:
        """Open a session.

        Args:
            folder: The export's directory.
            description: What it says about itself.
            threads: CPU threads; see `cpu_threads`.
            device: ``cpu``, ``cuda`` or ``cuda:NUMBER``; by default as `export_device` chooses.

        Raises:
            PrerequisiteError: onnxruntime is missing, too old, or cannot use the device.
            ResourceError: The graph does not fit into memory.
            DataError: The graph cannot be loaded.
        """
        runtime = require_runtime()
        self._folder = folder
        self._description = description
        self._number = device_number(export_device(device, description.precision))
        if self._number is not None:
            require_cuda(self._number)
            if description.precision not in CUDA_PRECISIONS:
                _logger.warning(
                    "%s: %s on cuda: what has no kernels there is computed on the CPU, with copies to and fro; an "
                    "export in fp16 is faster",
                    folder,
                    description.precision,
                )
        number_of_threads = cpu_threads(threads)
        self.batch_tokens = best_batch_tokens(
            "cpu" if self._number is None else "cuda", number_of_threads or os.cpu_count() or 1
        )
        self.session = self._opened(runtime, number_of_threads)

    def _opened(self, runtime: ModuleType, threads: int) -> Any:
        options = runtime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        # Threads that wait for each other sleep, as those of torch do here: while they spin, they take the cores from
        # the threads that tokenise and write, and from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Where sums of two products in int8 saturate, on x86 processors without VNNI, the slower exact instructions;
        # with VNNI or AMX they are exact anyway, and the entry would take products to an eighth of their speed.
        if not multiplies_int8():
            options.add_session_config_entry("session.x64quantprecision", "1")
        # A plan for each shape of a batch would keep the memory of most shapes that ever came.
        options.enable_mem_pattern = False
        try:
            session = runtime.InferenceSession(
                self._folder / GRAPH_FILE, options, providers=provider_options(self._number), enable_fallback=0
            )
        except Exception as error:  # the library's exceptions have no common base
            if _is_out_of_memory(error):
                raise ResourceError(
                    f"{self._folder}: does not fit into memory; export it with --precision int8"
                ) from error
            raise DataError(
                f"{self._folder}: ONNX Runtime {runtime.__version__} cannot load the graph: {one_line(error)}; "
                "export the model again"
            ) from error
        if self._number is not None and CUDA_PROVIDER not in session.get_providers():
            raise PrerequisiteError(
                f"{self._folder}: device cuda:{self._number}: ONNX Runtime opened the graph without CUDA; "
                "`doctor` says what is missing, or use device cpu"
            )
        return session

    def encode(self, texts: Sequence[TokenizedText], top_k: int | None) -> SparseVectors:
        """Encode one batch; see `Engine`.

        Raises:
            UsageError: A text is longer than the graph has positions.
            DataError: A weight is not finite.
            OutOfMemoryError: There is not enough memory.
            RunError: ONNX Runtime failed.
        """
        size = self._description.vocabulary_size
        inputs = {**padded(texts, self._description.positions), "k": np.array([min(top_k or size, size)])}
        try:
            if self._number is None:
                ids, weights = self.session.run(OUTPUTS, inputs)
            else:
                ids, weights = run_bound(self.session, inputs)
        except Exception as error:  # the library's exceptions have no common base
            batch = f"{len(texts)} texts of up to {len(texts[0].ids)} tokens"
            if _is_out_of_memory(error):
                raise OutOfMemoryError(f"{self._folder}: out of memory with {batch}; lower the batch size") from error
            raise RunError(
                f"{self._folder}: ONNX Runtime failed with {batch}: {one_line(error)}; lower the batch size if memory "
                "is short"
            ) from error
        if not np.isfinite(weights).all():
            raise DataError(
                f"{self._folder}: a weight is not finite: the model overflows; encode with the torch model it was "
                "exported from"
            )
        return SparseVectors.from_rows(list(ids), list(weights), size)


def run_bound(session: Any, inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[Any]]:
    """Run a session with its inputs and outputs bound: only the terms that stay come back from the device.

    On the CPU it is what `run` is, without anything gained.

    Args:
        session: The session.
        inputs: By name; those that a GPU reads are copied there once, however many nodes take them.
    """
    binding = session.io_binding()
    for name, values in inputs.items():
        binding.bind_cpu_input(name, values)
    for name in OUTPUTS:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
    return outputs


def padded(texts: Sequence[TokenizedText], positions: int) -> dict[str, NDArray[np.generic]]:
    """Return the graph's inputs for tokenised texts, all with content: ``input_ids``, ``lengths`` and ``pool_mask``.

    Args:
        texts: What `Tokenization.token_ids` returned.
        positions: Maximum number of tokens that a text may have.

    Raises:
        UsageError: A text is longer.
    """
    lengths = np.array([len(text.ids) for text in texts], dtype=np.int32)
    longest = max(len(text.ids) for text in texts)
    if longest > positions:
        raise UsageError(
            f"onnx: a text of {longest} tokens: the export has {positions} positions; lower the maximum length, or "
            "export with a longer one: export --model MODEL,document_max_length=TOKENS"
        )
    input_ids = np.zeros((len(texts), longest), dtype=np.int64)  # padding is never looked at
    pool_mask = np.zeros((len(texts), longest), dtype=np.bool_)
    for row, (ids, pooled) in enumerate(texts):
        input_ids[row, : len(ids)] = ids
        pool_mask[row, pooled.start : pooled.stop] = True
    return {"input_ids": input_ids, "lengths": lengths, "pool_mask": pool_mask}


def require_runtime() -> ModuleType:
    """Import onnxruntime.

    Raises:
        PrerequisiteError: It is missing, too old, or damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise PrerequisiteError(
            f"onnxruntime: cannot be imported: {one_line(error)}; pip install 'pyserini-llm-sparse[onnx]'"
        ) from error
    providers = available_providers()
    if CPU_PROVIDER not in providers:
        names = " ".join(installed_runtimes()) or "onnxruntime"
        raise PrerequisiteError(
            f"onnxruntime: has no {CPU_PROVIDER}, only {', '.join(providers) or 'remains of itself'}: two of its "
            f"packages may have been installed over each other; pip uninstall -y {names}, then pip install "
            "'pyserini-llm-sparse[onnx]'"
        )
    require_version("onnxruntime", onnxruntime.__version__, LEAST_VERSION, "attention in both directions")
    library: ModuleType = onnxruntime
    return library


def cpu_threads(asked: int | None) -> int:
    """Return how many CPU threads a session has; 0, the library's word for one for each physical core, if nothing says.

    Args:
        asked: What the caller wants; else OMP_NUM_THREADS counts, which torch, too, obeys, and then what the process
            is allowed to use: the library itself does not look at that.
    """
    if asked is not None:
        return asked
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(value) if value.isdigit() else allowed_cores() or 0


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)

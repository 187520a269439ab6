"""The public `SparseEncoder`: finds a model by its name and picks the engine that computes its vectors."""

from __future__ import annotations

from typing import Any

from pyserini_llm_sparse.modelling.checkpoint import Checkpoint, load_checkpoint
from pyserini_llm_sparse.modelling.encoding import EncodingCore
from pyserini_llm_sparse.modelling.engine import EngineLoader
from pyserini_llm_sparse.modelling.folder import ModelFolder
from pyserini_llm_sparse.modelling.names import ModelReference, parse_encoder_name
from pyserini_llm_sparse.modelling.torch_engine import TorchLoader


class SparseEncoder(EncodingCore):
    """Encodes queries and documents. Safe to use from several threads; the model runs one batch at a time.

    A text's vector does not depend on the texts beside it. None and blank texts have empty vectors.

    >>> encoder = SparseEncoder.load("csplade")
    >>> encoder.query_impacts(["what is a sparse vector"])
    [{'vector': 116, 'sparse': 134}]
    """

    @classmethod
    def load(
        cls,
        name: str = "csplade",
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        **overrides: Any,
    ) -> SparseEncoder:
        """Load an encoder by name.

        The weights are read when the first text goes through the model: an encoder with inference-free queries starts
        in a fraction of a second and needs neither torch nor the weights for queries. The directory of an ONNX export
        is a model like any other: ONNX Runtime computes its vectors, and torch is not needed.

        Args:
            name: ``csplade``, ``csplade:PATH_OR_HUB_ID``, or a path or hub id; see `names.parse_encoder_name`.
            device: Such as ``cpu`` or ``cuda:0``; by default a GPU where there is one; for an export only if its
                precision is made for it.
            dtype: ``float32`` (default on a CPU), ``bfloat16`` or ``float16``; an export has its own precision.
            threads: CPU threads of the model, by default as many as there are cores; in torch those of the process.
            **overrides: Fields of the encoding spec, and the loading options of `names.ModelReference`.

        Raises:
            ResourceError: The model, its base or its tokenizer is not there.
            UsageError: A field of the spec is unknown, or not for this kind of model; or device, dtype, precision or a
                field is not what an export is for.
            DataError: It is another kind of model, has no spec, or its files are not in order.
            SpecMismatchError: The files are not those that the spec was saved with.
        """
        return cls(*find_model(parse_encoder_name(name).with_options(**overrides), device, dtype, threads))


def find_model(
    reference: ModelReference, device: str | None, dtype: str | None, threads: int | None
) -> tuple[Checkpoint, EngineLoader]:
    """Find a model's parts and choose what computes its vectors: ONNX Runtime for an export, else as it was asked for.

    Args:
        reference: The model.
        device: As for `SparseEncoder.load`, and so are the others.
        dtype: torch's number format.
        threads: CPU threads.

    Raises:
        LlmSparseError: As `SparseEncoder.load` says.
    """
    folder = ModelFolder.find(reference)
    if folder.is_export:
        from pyserini_llm_sparse.onnx.runtime.loading import load_export

        return load_export(reference, folder, device, dtype, threads)
    checkpoint = load_checkpoint(reference, folder)
    if reference.precision is not None:
        from pyserini_llm_sparse.onnx.runtime.precision import asked_precision

        if (precision := asked_precision(reference.precision, device, dtype)) is not None:
            from pyserini_llm_sparse.onnx.export.cache import CachedExportLoader

            return checkpoint, CachedExportLoader(checkpoint, precision, device, threads)
    return checkpoint, TorchLoader(checkpoint, device, dtype, threads)

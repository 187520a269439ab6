"""The builders of the graph of a model's body: this package on fused attention, torch's exporter, or optimum's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, UsageError
from pyserini_llm_sparse.onnx.graph.body import CHOICES, Body, BuilderChoice

if TYPE_CHECKING:
    from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
    from pyserini_llm_sparse.modelling.spec import EncodingSpec

OPTIMUM_IGNORES = "optimum-cli ignores attention in both directions, and rotary positions as transformers 5 saves them"


def known_builder(asked: str) -> BuilderChoice:
    """Return the choice of that name.

    Raises:
        UsageError: There is none.
    """
    for known in CHOICES:
        if known == asked:
            return known
    raise UsageError(f"builder {asked}: unknown; choose {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")


def build_body(
    backbone: Backbone,
    spec: EncodingSpec,
    choice: BuilderChoice,
    note: Callable[[str], None],
    optimum: str | Path | None = None,
) -> Body:
    """Build the graph of a model's body; for ``auto`` on fused attention if that can express the model.

    Args:
        backbone: The model, in float32 on the CPU.
        spec: Says how long texts are.
        choice: Who builds it.
        note: Told why torch's exporter is used although that was not asked for.
        optimum: What optimum's exporter wrote, if that is not to be run here.

    Raises:
        DataError: The builder refuses the model, or both do.
        PrerequisiteError: torch's exporter lacks a package, or optimum is not installed.
        LlmSparseError: What optimum wrote cannot be used.
    """
    if choice == "optimum":
        if backbone.is_masked:
            raise DataError(
                f"builder optimum: {type(backbone.model).__name__} is a masked language model, and only causal ones "
                "can be read from optimum; export with --builder auto"
            )
        from pyserini_llm_sparse.onnx.graph.torch_builder import require_onnxscript

        require_onnxscript()
        from pyserini_llm_sparse.onnx.graph.optimum_builder import export_body, read_body

        return export_body(backbone, spec) if optimum is None else read_body(optimum, backbone, spec)
    if choice == "torch":
        from pyserini_llm_sparse.onnx.graph.torch_builder import trace_body

        return trace_body(backbone, spec)
    from pyserini_llm_sparse.onnx.graph.decoder import read_decoder
    from pyserini_llm_sparse.onnx.graph.fused import FusedBody

    try:
        return FusedBody(read_decoder(backbone, spec))
    except DataError as error:
        if choice == "fused":
            raise
        reason = str(error).partition("; ")[0]  # without what else could be done
    return build_with_torch(backbone, spec, reason, note)


def build_with_torch(backbone: Backbone, spec: EncodingSpec, reason: str, note: Callable[[str], None]) -> Body:
    """Build the graph with torch's exporter, in place of the fused one, and say why.

    Args:
        backbone: The model, in float32 on the CPU.
        spec: Says how long texts are.
        reason: Why the fused graph will not do.
        note: Told so.

    Raises:
        LlmSparseError: As `build_body` says; with the reason.
    """
    from pyserini_llm_sparse.onnx.graph.torch_builder import trace_body

    note(f"builder torch: {reason}; torch's exporter builds the graph")
    try:
        return trace_body(backbone, spec)
    except (DataError, PrerequisiteError) as error:
        raise type(error)(f"{reason}; {error}") from error

"""Who builds the graph of a model's body: this package on fused attention, torch's exporter, or optimum's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
    from pyserini_llm_sparse.modelling.spec import EncodingSpec
    from pyserini_llm_sparse.onnx.graph.products import PartProducts, Tables
    from pyserini_llm_sparse.onnx.graph.writer import GraphWriter

Builder = Literal["fused", "torch", "optimum"]
BuilderChoice = Literal["auto", "fused", "torch", "optimum"]
CHOICES: tuple[BuilderChoice, ...] = ("auto", "fused", "torch", "optimum")
OPTIMUM_IGNORES = "optimum-cli ignores attention in both directions, and rotary positions as transformers 5 saves them"


class Body(Protocol):
    """A model up to its last hidden states, and what the head behind them needs.

    Attributes:
        builder: Who made it.
        head: The output embedding, ``[vocabulary, hidden]``.
        head_bias: The output layer's bias ``[vocabulary]``, or None.
        positions: Most tokens of a text.
    """

    builder: Builder
    head: Tensor
    head_bias: Tensor | None
    positions: int

    def hidden(self, write: GraphWriter, products: PartProducts, tables: Tables) -> str:
        """Add its nodes to a graph; can be called again, for another graph.

        Args:
            write: The graph, with the inputs that the module `graph` names.
            products: How its parts multiply.
            tables: The embeddings.

        Returns:
            The last hidden states of all positions, ``[batch, sequence, hidden]``.
        """

    def calibrate(self) -> AbstractContextManager[None]:
        """Make its products fit for quantisation, if it can, by the texts that the model computes in the context."""


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

"""Torch's exporter as the second builder of a body: whatever language model transformers knows, traced.

It sees token ids and lengths and returns hidden states, with masks, positions and caches as `Backbone.hidden` has them.
Its graph becomes part of ours (`traced_graph`), in which the products and the head are the same as for other models.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, one_line, require_version
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.onnx.graph.body import Builder
from pyserini_llm_sparse.onnx.graph.decoder import most_positions
from pyserini_llm_sparse.onnx.graph.products import PartProducts, Tables
from pyserini_llm_sparse.onnx.graph.writer import OPSET, GraphWriter

LEAST_ONNXSCRIPT = (0, 7)
SAMPLE_LENGTHS = (11, 4, 7)  # a dimension of 1 would be taken as constant
TALKATIVE = ("torch", "onnxscript", "onnx_ir", "optimum", "transformers")


class TracedBody:
    """A body that torch's exporter made; see `body.Body`."""

    builder: Builder = "torch"

    def __init__(self, backbone: Backbone, graph: Any, positions: int) -> None:
        """Hold what was traced.

        Args:
            backbone: The model; its weights are those of the graph.
            graph: An `onnx_ir.Graph`.
            positions: Maximum number of tokens of a text.
        """
        self.head, self.head_bias, self.positions = backbone.head_weight, backbone.head_bias, positions
        self._embedding: Tensor = backbone.model.get_input_embeddings().weight  # type: ignore[assignment]
        self._graph = graph

    def hidden(self, write: GraphWriter, products: PartProducts, tables: Tables) -> str:
        """Add what was traced to a graph and return the last hidden states."""
        from pyserini_llm_sparse.onnx.graph.traced import TracedGraph

        return TracedGraph(write, products, tables, self._embedding).hidden(self._graph)

    def calibrate(self) -> AbstractContextManager[None]:
        """Leave the products as they are: what makes the inputs of one is not known here."""
        return nullcontext()


@torch.no_grad()
def trace_body(backbone: Backbone, spec: EncodingSpec) -> TracedBody:
    """Trace a model without its output layer.

    Args:
        backbone: The model, in float32 on the CPU.
        spec: Says how long texts are.

    Raises:
        PrerequisiteError: onnxscript is missing or too old.
        DataError: The exporter cannot trace the model, or not for all lengths, or uses operators that we do not take.
    """
    version = require_onnxscript()
    from pyserini_llm_sparse.onnx.graph.traced import require_simple

    positions = most_positions(backbone, spec)
    name = type(backbone.model).__name__
    try:
        with silent():
            program = _traced(backbone)
            lengths = _lengths(program)
            graph = _onnx_graph(program)
    except Exception as error:  # neither library's exceptions have a common base
        raise DataError(
            f"{name}: torch's exporter fails (torch {torch.__version__}, onnxscript {version}): {_first_line(error)}; "
            "encode with the torch model"
        ) from error
    if not (lengths[0] <= 2 and positions <= lengths[1]):
        raise DataError(
            f"{name}: torch's exporter traces it for texts of {lengths[0]} to {lengths[1]} tokens only, and up to "
            f"{positions} are needed; encode with the torch model"
        )
    require_simple(graph, name)
    return TracedBody(backbone, graph, positions)


class _Body(torch.nn.Module):
    """A model without its output layer on the inputs of our graphs."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = backbone.model  # as a part of this module, so that its weights are no constants
        self._backbone = backbone

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return hidden states ``[batch, sequence, hidden]`` of texts that are padded on the right."""
        mask = torch.arange(input_ids.shape[1])[None] < lengths[:, None]
        return self._backbone.hidden(input_ids, mask.long())


def _traced(backbone: Backbone) -> Any:
    from torch.export import Dim, export

    lengths = torch.tensor(SAMPLE_LENGTHS, dtype=torch.int32)
    input_ids = torch.arange(len(lengths) * max(SAMPLE_LENGTHS)).view(len(lengths), -1) % backbone.vocabulary_size
    dimensions = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {0: Dim.DYNAMIC})
    return export(_Body(backbone).eval(), (input_ids, lengths), dynamic_shapes=dimensions, strict=False)


def _lengths(program: Any) -> tuple[Any, Any]:
    """Return the shortest and the longest text that what was traced holds for; the latter can be infinite."""
    name = program.graph_signature.user_inputs[0]
    input_ids = next(node for node in program.graph.nodes if node.name == name).meta["val"]
    known = program.range_constraints[input_ids.shape[1].node.expr]
    return known.lower, known.upper


def _onnx_graph(program: Any) -> Any:
    """Return what was traced as an `onnx_ir.Graph`, simplified, whose weights are still those of the model."""
    model = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, optimize=False, verbose=False).model  # type: ignore[union-attr]
    simplify(model)
    return model.graph


def simplify(model: Any) -> None:
    """Compute what is constant in an `onnx_ir.Model`, infer shapes, and leave out what is not needed."""
    from onnxscript.optimizer import optimize_ir

    # By default the transposed weights would be computed, and exist twice; the products take them as they are.
    optimize_ir(model, should_fold=lambda node: False if node.op_type == "Transpose" else None)


def _first_line(error: Exception) -> str:
    """Return what the exporter says first; advice on how to change the model's code follows, over pages."""
    return one_line(Exception(next(iter(str(error).strip().splitlines()), type(error).__name__)))


def require_onnxscript() -> str:
    """Return the version of onnxscript.

    Raises:
        PrerequisiteError: It cannot be imported or is too old.
    """
    try:
        import onnxscript
    except ImportError as error:
        raise PrerequisiteError(
            f"onnxscript: cannot be imported: {one_line(error)}: torch's exporter needs it; "
            "pip install 'pyserini-llm-sparse[onnx]'"
        ) from error
    version: str = onnxscript.__version__
    require_version("onnxscript", version, LEAST_ONNXSCRIPT, "torch's exporter")
    return version


@contextmanager
def silent() -> Iterator[None]:
    """Keep an exporter's warnings, of which none is about the model, from whoever exports one."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

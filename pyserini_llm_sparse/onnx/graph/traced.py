"""Brings a graph of torch's exporter into ours: its products as ours, its weights into the file, each once.

What lies between the products is in float32 in every precision: the exporter made it for that type.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir
import torch
from torch import Tensor

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.onnx.graph.products import PartProducts, Products, Tables, cast
from pyserini_llm_sparse.onnx.graph.writer import GraphWriter

INPUTS = ("input_ids", "lengths")
OF_ATTENTION = ("attn", "attention")  # in the path of a module
_MODEL = "model."  # what the paths of all weights begin with


class _Linear(NamedTuple):
    """A product with a weight ``[out, in]``, and its bias if the node adds one."""

    name: str
    rows: onnx_ir.Value
    weight: Tensor
    bias: Tensor | None


def require_simple(graph: onnx_ir.Graph, name: str) -> None:
    """Refuse operators that are not ONNX's own, and parts that are computed on a condition.

    Raises:
        DataError: Naming the first.
    """
    for node in graph:
        branches = any(
            attribute.type in (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        )
        if node.domain or branches:
            raise DataError(
                f"{name}: torch's exporter makes a graph with {node.domain or 'ONNX'}'s {node.op_type}, which is not "
                "taken over; encode with the torch model"
            )


class TracedGraph:
    """Adds the nodes of an exporter's graph to ours."""

    def __init__(self, write: GraphWriter, products: PartProducts, tables: Tables, embedding: Tensor) -> None:
        """Start.

        Args:
            write: Our graph.
            products: How its parts multiply.
            tables: The embeddings.
            embedding: The input embedding, ``[vocabulary, hidden]``.
        """
        self._write = write
        self._products = products
        self._tables = tables
        self._embedding = embedding
        self._names: dict[onnx_ir.Value, str] = {}

    def hidden(self, graph: onnx_ir.Graph) -> str:
        """Add all nodes of a graph on `INPUTS` and return the name of its output."""
        self._names = dict(zip(graph.inputs, INPUTS, strict=True))
        linear = {node: found for node in graph if (found := _as_linear(node)) is not None}
        for node in graph:
            if node in linear:
                self._names[node.outputs[0]] = self._linear(linear[node])
            elif self._is_embedding(node):
                self._names[node.outputs[0]] = self._embedded(self._named(node.inputs[1]))
            elif not _is_transposed_for(node, linear):
                inputs = [self._named(value) for value in node.inputs]
                outputs = self._write.copied(onnx_ir.to_proto(node), inputs)
                self._names.update(zip(node.outputs, outputs, strict=True))
        return cast(self._write, self._named(graph.outputs[0]), self._products.activations, torch.float32)

    def _named(self, value: onnx_ir.Value | None) -> str:
        """Return the name of a value in our graph, to which a constant is added when it is first needed."""
        if value is None:
            return ""
        if value not in self._names:
            constant = value.const_value
            assert constant is not None  # else a node had made it, and nodes are in the order of their values
            self._names[value] = self._write.weight(_path(value), constant.numpy())
        return self._names[value]

    def _linear(self, linear: _Linear) -> str:
        write, activations = self._write, self._products.activations
        rows = cast(write, self._named(linear.rows), activations, torch.float32)
        of_texts = linear.rows.shape is not None and len(linear.rows.shape) == 3
        axis = write.constant([0], np.int64)
        if not of_texts:
            rows = write.value("Unsqueeze", rows, axis)
        product = self._products_of(linear).linear(linear.name, rows, linear.weight, linear.bias)
        if not of_texts:
            product = write.value("Squeeze", product, axis)
        return cast(write, product, torch.float32, activations)

    def _products_of(self, linear: _Linear) -> Products:
        """Return how a layer multiplies: its part is known by the path of its weight and its shape."""
        if _is_of_attention(linear.name):
            return self._products.attention
        outputs, inputs = linear.weight.shape
        back_to_hidden = outputs == self._embedding.shape[1] and inputs != outputs
        return self._products.down if back_to_hidden else self._products.feed_forward

    def _is_embedding(self, node: onnx_ir.Node) -> bool:
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            return False
        table = _weight(node.inputs[0])
        return table is not None and table.data_ptr() == self._embedding.data_ptr()

    def _embedded(self, ids: str) -> str:
        rows = self._tables.rows(self._embedding, ids)
        return cast(self._write, rows, torch.float32, self._products.activations)


def _as_linear(node: onnx_ir.Node) -> _Linear | None:
    """Return a node as a linear layer of rows in two or three dimensions, None if it is none."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    rows, factor, *others = node.inputs
    if rows is None or factor is None or rows.const_value is not None or rows.shape is None:
        return None
    transposed = False
    producer = factor.producer()
    if producer is not None and producer.op_type == "Transpose":  # of two dimensions, as is checked below
        transposed, factor = True, producer.inputs[0]
    bias = None
    if node.op_type == "Gemm":
        plain = node.attributes.get_float("alpha", 1.0) == 1.0 and not node.attributes.get_int("transA", 0)
        transposed ^= bool(node.attributes.get_int("transB", 0))
        if others and others[0] is not None:
            bias = _weight(others[0])
            plain = plain and bias is not None and bias.dim() == 1 and node.attributes.get_float("beta", 1.0) == 1.0
        if not plain:
            return None
    weight = _weight(factor)
    if weight is None or weight.dim() != 2 or len(rows.shape) not in (2, 3) or factor is None:
        return None
    weight = weight if transposed else weight.T
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return _Linear(_path(factor), rows, weight, bias)


def _is_transposed_for(node: onnx_ir.Node, linear: dict[onnx_ir.Node, _Linear]) -> bool:
    """Tell whether a node only transposes a weight for products that take it as it is."""
    if node.op_type != "Transpose" or _weight(node.inputs[0]) is None:
        return False
    uses = node.outputs[0].uses()
    return bool(uses) and all(use.node in linear and use.idx == 1 for use in uses)


def _weight(value: onnx_ir.Value | None) -> Tensor | None:
    """Return a constant of numbers as a tensor of the same memory, None if a value is anything else."""
    if value is None or value.const_value is None or value.const_value.dtype != onnx_ir.DataType.FLOAT:
        return None
    raw = value.const_value.raw
    return raw if isinstance(raw, Tensor) else torch.tensor(value.const_value.numpy())


def _path(value: onnx_ir.Value) -> str:
    """Return the path of the module that a weight belongs to."""
    return str(value.name).removeprefix(_MODEL).removesuffix(".weight")


def _is_of_attention(path: str) -> bool:
    return any(word in part for part in path.lower().split(".") for word in OF_ATTENTION)

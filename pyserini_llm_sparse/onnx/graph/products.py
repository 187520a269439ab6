"""The products of an export's parts, in which its precisions differ and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from pyserini_llm_sparse.onnx.graph.writer import MICROSOFT, GraphWriter


class Products(Protocol):
    """How a part of an export multiplies."""

    def linear(self, name: str, rows: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """Return ``rows @ weight.T + bias`` in the type of the activations.

        Args:
            name: What the weight is.
            rows: Value ``[batch, length, in]``.
            weight: ``[out, in]``.
            bias: ``[out]``.
        """

    def largest(self, name: str, texts: str, weight: Tensor) -> str:
        """Return the largest of ``texts @ weight.T`` over the positions of each text, ``[batch, out]`` in float32.

        Args:
            name: What the weight is.
            texts: Value ``[batch, length, in]``.
            weight: ``[out, in]``.
        """


@dataclass(frozen=True)
class PartProducts:
    """How each part of an export multiplies.

    Attributes:
        attention: The projections before and after attention.
        feed_forward: The first projections of the feed-forward network.
        down: Its last one.
        head: The vocabulary projection.
        activations: Type of everything between the products.
        tables: Type in which embeddings are kept.
    """

    attention: Products
    feed_forward: Products
    down: Products
    head: Products
    activations: torch.dtype
    tables: torch.dtype


class FloatProducts:
    """Products in a floating-point type, of activations of that type."""

    def __init__(self, writer: GraphWriter, dtype: torch.dtype) -> None:
        self._writer = writer
        self._dtype = dtype

    def linear(self, name: str, rows: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """See `Products`."""
        # Transposed in the product and not in the file, whose bytes a tied embedding can then share.
        table = self._writer.weight(name, array_of(weight.to(self._dtype)))
        product = self._writer.value("FusedMatMul", rows, table, domain=MICROSOFT, transB=1)
        return with_bias(self._writer, product, name, None if bias is None else bias.to(self._dtype))

    def largest(self, name: str, texts: str, weight: Tensor) -> str:
        """See `Products`."""
        product = self.linear(name, texts, weight)
        if self._dtype is torch.bfloat16:  # of which ONNX Runtime finds no maximum
            return largest_position(self._writer, cast(self._writer, product, torch.float32))
        return cast(self._writer, largest_position(self._writer, product), torch.float32, self._dtype)


class Tables:
    """Rows of tables ``[vocabulary, hidden]``, each of which is in the file once."""

    def __init__(self, writer: GraphWriter, products: PartProducts) -> None:
        self._writer = writer
        self._stored_type, self._activations = products.tables, products.activations
        self._stored: dict[int, Tensor] = {}
        self._names: dict[int, str] = {}

    def stored(self, table: Tensor) -> Tensor:
        """Return a table as it is in the file; what is written of its memory is not written again."""
        address = table.data_ptr()
        if address not in self._stored:
            self._stored[address] = table.to(self._stored_type)
        return self._stored[address]

    def rows(self, table: Tensor, ids: str) -> str:
        """Return the rows of ids of any shape, in the type of the activations; `hidden` is the last dimension."""
        address = table.data_ptr()
        if address not in self._names:
            self._names[address] = self._writer.weight("embedding", array_of(self.stored(table)), shared=True)
        found = self._writer.value("Gather", self._names[address], ids)
        return cast(self._writer, found, self._activations, self._stored_type)


def array_of(tensor: Tensor) -> NDArray[np.generic]:
    """Return a tensor as an array of the same memory."""
    found: NDArray[np.generic]
    if tensor.dtype is torch.bfloat16:  # which numpy has from another package
        found = tensor.detach().contiguous().view(torch.int16).numpy()
        return found.view(helper.tensor_dtype_to_np_dtype(onnx_type(torch.bfloat16)))
    found = tensor.detach().numpy()
    return found


def onnx_type(dtype: torch.dtype) -> int:
    """Return ONNX's number for a floating-point type."""
    return {
        torch.float32: TensorProto.FLOAT,
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
    }[dtype]


def cast(write: GraphWriter, value: str, to: torch.dtype, given: torch.dtype | None = None) -> str:
    """Return a value in another type; itself if it is given in that already."""
    return value if given is to else write.value("Cast", value, to=onnx_type(to))


def largest_position(write: GraphWriter, values: str) -> str:
    """Return the largest over the second dimension of ``[batch, length, ...]``."""
    return write.value("ReduceMax", values, write.constant([1], np.int64), keepdims=0)


def with_bias(write: GraphWriter, product: str, name: str, bias: Tensor | None) -> str:
    """Return a product with the bias that it may have, which has its type."""
    return product if bias is None else write.value("Add", product, write.weight(f"{name}.bias", array_of(bias)))

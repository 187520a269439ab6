"""Products with weights in one of two number formats, in which an export's precisions differ and nowhere else.

int8 quantises each row of the activations by its own largest magnitude when the graph runs, and each output of a weight
by its own when the graph is written (per token and per channel: ZeroQuant, Yao et al., 2022). ONNX Runtime's
`quantize_dynamic` takes one scale for a whole batch instead: a text's vector would then depend on the texts beside it,
and a single outlier would cost all others their precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from pyserini_llm_sparse.onnx.description import Part
from pyserini_llm_sparse.onnx.writer import MICROSOFT, GraphWriter

LARGEST = 127  # of an int8 that is symmetric about 0
ZERO_POINT = 128  # of activations, which are uint8, for which processors have instructions
LEAST_MAGNITUDE = 1e-20  # a row of zeros must not be divided by 0


class Products(Protocol):
    """How a part of an export multiplies."""

    def linear(self, name: str, rows: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """Return ``rows @ weight.T + bias`` in float32.

        Args:
            name: What the weight is.
            rows: Value ``[batch, length, in]``.
            weight: ``[out, in]``.
            bias: ``[out]``.
        """


@dataclass(frozen=True)
class PartProducts:
    """How each part of an export multiplies.

    Attributes:
        attention: The projections before and after attention.
        feed_forward: The feed-forward network.
        head: The vocabulary projection.
        quantised: The parts that multiply in int8.
    """

    attention: Products
    feed_forward: Products
    head: Products
    quantised: tuple[Part, ...]


def products_of(quantised: tuple[Part, ...], writer: GraphWriter) -> PartProducts:
    """Return products in int8 for the named parts, in float32 for the others."""
    plain, narrow = FloatProducts(writer), QuantisedProducts(writer)
    parts: dict[Part, Products] = {
        "attention": narrow if "attention" in quantised else plain,
        "feed_forward": narrow if "feed_forward" in quantised else plain,
        "head": narrow if "head" in quantised else plain,
    }
    return PartProducts(parts["attention"], parts["feed_forward"], parts["head"], quantised)


class FloatProducts:
    """Products in float32."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer

    def linear(self, name: str, rows: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """See `Products`."""
        # Transposed in the product and not in the file, whose bytes a tied embedding can then share.
        table = self._writer.weight(name, array_of(weight))
        product = self._writer.value("FusedMatMul", rows, table, domain=MICROSOFT, transB=1)
        return _with_bias(self._writer, product, name, bias)


class QuantisedProducts:
    """Products in int8."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self._quantised: dict[str, tuple[str, str]] = {}

    def linear(self, name: str, rows: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """See `Products`."""
        write = self._writer
        quantised, magnitude = self._quantise(rows)
        values, scales = quantised_weight(weight)
        product = write.value(
            "MatMulIntegerToFloat", quantised, write.weight(name, array_of(values.T.contiguous())), self._scale(),
            write.weight(f"{name}.scale", array_of(scales)), self._zero_point(), domain=MICROSOFT,
        )  # fmt: skip
        return _with_bias(write, write.value("Mul", product, magnitude), name, bias)

    def _quantise(self, rows: str) -> tuple[str, str]:
        """Return rows as uint8 and the largest magnitude of each, ``[batch, length, 1]``."""
        if rows not in self._quantised:
            write = self._writer
            largest = write.value("ReduceMax", write.value("Abs", rows), write.constant([-1], np.int64), keepdims=1)
            magnitude = write.value("Max", largest, write.constant(LEAST_MAGNITUDE, np.float32))
            unit = write.value("Div", rows, magnitude)
            self._quantised[rows] = write.value("QuantizeLinear", unit, self._scale(), self._zero_point()), magnitude
        return self._quantised[rows]

    def _scale(self) -> str:
        return self._writer.constant(1 / LARGEST, np.float32)

    def _zero_point(self) -> str:
        return self._writer.constant(ZERO_POINT, np.uint8)


class HalfTables:
    """Rows of tables ``[vocabulary, hidden]`` that are kept in float16, each table once."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self._names: dict[int, str] = {}

    def rows(self, table: Tensor, ids: str) -> str:
        """Return the rows of ids of any shape, in float32, with `hidden` as the last dimension."""
        address = table.data_ptr()
        if address not in self._names:
            self._names[address] = self._writer.weight("embedding", array_of(table.half()))
        return self._writer.value("Cast", self._writer.value("Gather", self._names[address], ids), to=TensorProto.FLOAT)


def quantised_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise the rows of a weight symmetrically, each by itself.

    Args:
        weight: ``[out, in]``.

    Returns:
        int8 ``[out, in]`` and the scales, float32 ``[out]``.
    """
    scales = (weight.abs().amax(1) / LARGEST).clamp(min=LEAST_MAGNITUDE)
    return (weight / scales[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def as_quantised(rows: Tensor) -> Tensor:
    """Return rows ``[..., in]``, of weights or of activations, with the error that their quantisation makes."""
    flat = rows.reshape(-1, rows.shape[-1])
    values, scales = quantised_weight(flat)
    return (values * scales[:, None]).view(rows.shape)


def array_of(tensor: Tensor) -> NDArray[np.generic]:
    """Return a tensor as an array of the same memory."""
    found: NDArray[np.generic] = tensor.detach().numpy()
    return found


def _with_bias(writer: GraphWriter, product: str, name: str, bias: Tensor | None) -> str:
    return product if bias is None else writer.value("Add", product, writer.weight(f"{name}.bias", array_of(bias)))

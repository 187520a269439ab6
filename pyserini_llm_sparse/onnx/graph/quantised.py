"""Products with quantised weights.

int8 quantises each row of the activations by its own largest magnitude when the graph runs, and each output of a weight
by its own when the graph is written (per token and per channel: ZeroQuant, Yao et al., 2022). ONNX Runtime's
`quantize_dynamic` takes one scale for a whole batch instead: a text's vector would then depend on the texts beside it,
and a single outlier would cost all others their precision. In blocks, a few neighbours of a weight's row share a scale:
closer to float32, and slower on a CPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyserini_llm_sparse.onnx.graph.products import array_of, cast, largest_position, with_bias
from pyserini_llm_sparse.onnx.graph.writer import MICROSOFT, GraphWriter

LARGEST = 127  # of an int8 that is symmetric about 0
ZERO_POINT = 128  # of activations, which are uint8, for which processors have instructions
LEAST_MAGNITUDE = 1e-20  # a row of zeros must not be divided by 0
BLOCK_SIZE = 32  # neighbours in a row that share a scale
INT8_ACTIVATIONS = 4  # the operator's "accuracy level" that has fast kernels


class Int8Products:
    """Products in int8."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self._quantised: dict[tuple[str, bool], tuple[str, str]] = {}

    def linear(self, name: str, rows: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """See `Products`."""
        write = self._writer
        quantised, magnitudes = self._quantise(rows, by_text=False)
        values, scales = self._weight(name, weight)
        product = write.value(
            "MatMulIntegerToFloat",
            quantised,
            values,
            write.constant(1, np.float32),
            scales,
            self._zero_point(),
            domain=MICROSOFT,
        )
        product = write.value("Mul", product, write.value("Unsqueeze", magnitudes, write.constant([1], np.int64)))
        shape = write.value(
            "Concat", write.value("Shape", rows, end=2), write.constant([len(weight)], np.int64), axis=0
        )
        return with_bias(write, write.value("Reshape", product, shape), name, bias)

    def largest(self, name: str, texts: str, weight: Tensor) -> str:
        """See `Products`. A text has one scale, so that the maximum is one of integers, and only it becomes a float."""
        write = self._writer
        quantised, magnitudes = self._quantise(texts, by_text=True)
        values, scales = self._weight(name, weight)
        largest = largest_position(write, write.value("MatMulInteger", quantised, values, self._zero_point()))
        scaled = write.value("Mul", cast(write, largest, torch.float32), scales)
        return write.value("Mul", scaled, write.value("Unsqueeze", magnitudes, write.constant([1], np.int64)))

    def _weight(self, name: str, weight: Tensor) -> tuple[str, str]:
        values, scales = quantised_weight(weight)
        write = self._writer
        return write.weight(name, array_of(values.T.contiguous())), write.weight(f"{name}.scale", array_of(scales))

    def _quantise(self, rows: str, by_text: bool) -> tuple[str, str]:
        """Return rows as uint8 and the scales.

        Args:
            rows: Value ``[batch, length, in]``.
            by_text: Whether a text has one scale, and not each of its tokens its own.

        Returns:
            ``[batch, length, in]`` and ``[batch]`` by text, else ``[batch * length, in]`` and ``[batch * length]``.
        """
        if (rows, by_text) not in self._quantised:
            write = self._writer
            shape = write.value("Shape", rows)
            parts = write.constant([0, -1] if by_text else [-1], np.int64)
            if not by_text:
                parts = write.value("Concat", parts, write.value("Shape", rows, start=2), axis=0)
            flat = write.value("Reshape", rows, parts)
            # Two passes over the rows that write nothing cost less than one of absolute values.
            axis = write.constant([1], np.int64)
            highest = write.value("ReduceMax", flat, axis, keepdims=0)
            lowest = write.value("ReduceMin", flat, axis, keepdims=0)
            largest = write.value(
                "Max", highest, write.value("Neg", lowest), write.constant(LEAST_MAGNITUDE, np.float32)
            )
            scales = write.value("Mul", largest, write.constant(1 / LARGEST, np.float32))
            zero_points = write.value("Expand", self._zero_point(), write.value("Shape", scales))
            quantised = write.value("QuantizeLinear", flat, scales, zero_points, axis=0)
            self._quantised[rows, by_text] = (
                write.value("Reshape", quantised, shape) if by_text else quantised, scales
            )  # fmt: skip
        return self._quantised[rows, by_text]

    def _zero_point(self) -> str:
        return self._writer.constant(ZERO_POINT, np.uint8)


class BlockProducts:
    """Products whose weights have 8 or 4 bits, with a scale for each block of a row."""

    def __init__(self, writer: GraphWriter, bits: int) -> None:
        self._writer = writer
        self._bits = bits

    def linear(self, name: str, rows: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """See `Products`."""
        write = self._writer
        values, scales = quantised_blocks(weight, self._bits)
        product = write.value(
            "MatMulNBits",
            rows,
            write.weight(name, array_of(values)),
            write.weight(f"{name}.scale", array_of(scales)),
            domain=MICROSOFT,
            K=weight.shape[1],
            N=len(weight),
            bits=self._bits,
            block_size=BLOCK_SIZE,
            accuracy_level=INT8_ACTIVATIONS,
        )
        return with_bias(write, product, name, bias)

    def largest(self, name: str, texts: str, weight: Tensor) -> str:
        """See `Products`."""
        return largest_position(self._writer, self.linear(name, texts, weight))


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
    """Return rows ``[rows, in]``, of weights or of activations, with the error that their quantisation makes."""
    values, scales = quantised_weight(rows)
    return values * scales[:, None]


def quantised_blocks(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Quantise the blocks of a weight's rows symmetrically, as ONNX Runtime's MatMulNBits reads them.

    Args:
        weight: ``[out, in]``.
        bits: 8 or 4.

    Returns:
        uint8 ``[out, blocks, bytes of a block]``, where a byte holds two values of 4 bits, the first one low, and
        float32 scales ``[out, blocks]``.
    """
    middle = 1 << (bits - 1)
    blocks = -(-weight.shape[1] // BLOCK_SIZE)
    filled = torch.nn.functional.pad(weight, (0, blocks * BLOCK_SIZE - weight.shape[1]))
    filled = filled.view(len(weight), blocks, BLOCK_SIZE)
    # The range reaches one further below zero than above: the largest magnitude goes there, whatever its sign.
    extreme = filled.gather(2, filled.abs().argmax(2, keepdim=True))
    scales = -extreme / middle
    values = (filled / torch.where(scales == 0, 1, scales)).round().clamp(-middle, middle - 1) + middle
    values = values.to(torch.uint8)
    if bits == 4:
        values = values[..., ::2] | (values[..., 1::2] << 4)
    return values.contiguous(), scales[..., 0].contiguous()

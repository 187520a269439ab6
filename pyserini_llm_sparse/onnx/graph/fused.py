"""An encoder's graph on ONNX Runtime's fused attention, from token ids to the terms of a vector.

Inputs, texts being padded on the right:

    input_ids   int64 [batch, sequence]
    lengths     int32 [batch]             tokens of each text
    pool_mask   bool  [batch, sequence]   which positions are pooled
    k           int64 [1]                 at most that many terms of a vector

Outputs, a row's heaviest term first; after the last term of a row come weights of 0:

    term_ids    int64   [batch, terms]    terms is k, or the most that any row has if those are fewer
    weights     float32 [batch, terms]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pyserini_llm_sparse.onnx.graph.body import Body, Builder
from pyserini_llm_sparse.onnx.graph.calibration import HeadCalibration
from pyserini_llm_sparse.onnx.graph.decoder import Decoder, Layer
from pyserini_llm_sparse.onnx.graph.head import HeadGraph
from pyserini_llm_sparse.onnx.graph.products import PartProducts, Tables, array_of
from pyserini_llm_sparse.onnx.graph.smoothing import LayerFactors, largest_inputs, smoothed, smoothing_factors
from pyserini_llm_sparse.onnx.graph.writer import MICROSOFT, GraphWriter

INPUTS = (
    helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
    helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
    helper.make_tensor_value_info("pool_mask", TensorProto.BOOL, ["batch", "sequence"]),
    helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
)
OUTPUTS = (
    helper.make_tensor_value_info("term_ids", TensorProto.INT64, ["batch", "terms"]),
    helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", "terms"]),
)


@torch.no_grad()
def write_encoder(
    write: GraphWriter,
    products: PartProducts,
    body: Body,
    logit_scale: float,
    allowed: NDArray[np.bool_],
    calibration: HeadCalibration | None = None,
    term_of: NDArray[np.int64] | None = None,
) -> None:
    """Add the nodes of a whole encoder to an empty graph.

    Args:
        write: The graph.
        products: How its parts multiply.
        body: The model up to its last hidden states.
        logit_scale: Factor on the logits before the activation.
        allowed: ``[vocabulary]``, true for ids whose logits count.
        calibration: Of a head in int8.
        term_of: ``[vocabulary]``, the id that stands for the term of each; None where each is its own.
    """
    tables = Tables(write, products)
    hidden = body.hidden(write, products, tables)
    head = HeadGraph(write, products, tables, logit_scale, calibration)
    head.terms(hidden, body.head, allowed, body.head_bias, term_of)


class FusedBody:
    """A decoder on ONNX Runtime's fused attention; see `body.Body`."""

    builder: Builder = "fused"

    def __init__(self, decoder: Decoder) -> None:
        """Hold the model's parts; `calibrate` adds what products in int8 need."""
        self._decoder = decoder
        self._factors: list[LayerFactors] | None = None
        self.head, self.head_bias, self.positions = decoder.head, decoder.head_bias, decoder.positions

    def hidden(self, write: GraphWriter, products: PartProducts, tables: Tables) -> str:
        """Add the layers to a graph and return the last hidden states."""
        return DecoderGraph(write, products, self._decoder, tables).hidden(self._layers())

    @contextmanager
    def calibrate(self) -> Iterator[None]:
        """Balance activations and weights by the texts that the model computes meanwhile."""
        with largest_inputs(self._decoder) as largest:
            yield
        self._factors = smoothing_factors(self._decoder, largest)

    def _layers(self) -> Iterator[Layer]:
        if self._factors is None:
            return self._decoder.layers()
        pairs = zip(self._decoder.layers(), self._factors, strict=True)
        return (smoothed(layer, factors, self._decoder) for layer, factors in pairs)


class DecoderGraph:
    """The layers: token ids to the last hidden states ``[batch, sequence, hidden]``."""

    def __init__(self, write: GraphWriter, products: PartProducts, decoder: Decoder, tables: Tables) -> None:
        self._write = write
        self._products = products
        self._tables = tables
        self._decoder = decoder
        length = write.value("Shape", "input_ids", start=1, end=2)
        self._sequence = write.value("Cast", length, to=TensorProto.INT32)
        # The operator counts from the last token, as it does with a cache.
        self._last_tokens = write.value("Sub", "lengths", write.constant(1, np.int32))
        self._first_position = write.constant([0], np.int64)
        self._cosines = self._weight("cosines", decoder.cosines)
        self._sines = self._weight("sines", decoder.sines)

    def hidden(self, layers: Iterable[Layer]) -> str:
        """Add all layers and the norm behind them."""
        # Each branch is added to the residual and normalised at once, by the norm that comes next.
        residual, branch = self._tables.rows(self._decoder.embedding, "input_ids"), ""
        for number, layer in enumerate(layers):
            normed, residual = self._norm(residual, branch, layer.input_norm)
            branch = self._attention(normed, layer, f"layers.{number}")
            normed, residual = self._norm(residual, branch, layer.feed_forward_norm)
            branch = self._feed_forward(normed, layer, f"layers.{number}")
        return self._norm(residual, branch, self._decoder.final_norm)[0]

    def _weight(self, name: str, weight: torch.Tensor) -> str:
        return self._write.weight(name, array_of(weight.to(self._products.activations)))

    def _norm(self, residual: str, branch: str, weight: torch.Tensor) -> tuple[str, str]:
        """Return the RMS norm of ``residual + branch``, and the sum."""
        gain = self._weight("norm", weight)
        epsilon = self._decoder.epsilon
        if not branch:
            return self._write.value("SimplifiedLayerNormalization", residual, gain, axis=-1, epsilon=epsilon), residual
        outputs = self._write.node(
            "SkipSimplifiedLayerNormalization", [residual, branch, gain], 4, domain=MICROSOFT, epsilon=epsilon
        )
        return outputs[0], outputs[3]

    def _attention(self, rows: str, layer: Layer, name: str) -> str:
        decoder = self._decoder
        linear = self._products.attention.linear
        query = linear(f"{name}.query", rows, *layer.query)
        key = linear(f"{name}.key", rows, *layer.key)
        value = linear(f"{name}.value", rows, *layer.value)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = self._norm_of_heads(query, layer.query_norm), self._norm_of_heads(key, layer.key_norm)
        # The attention can rotate as well, and take all three as one value: both take it longer.
        attended = self._write.value(
            "GroupQueryAttention",
            self._rotated(query, decoder.heads),
            self._rotated(key, decoder.key_value_heads),
            value,
            "",
            "",
            self._last_tokens,
            self._sequence,
            domain=MICROSOFT,
            num_heads=decoder.heads,
            kv_num_heads=decoder.key_value_heads,
            scale=decoder.attention_scale,
            causal=int(decoder.causal),
        )
        return linear(f"{name}.attention_output", attended, *layer.attention_output)

    def _rotated(self, rows: str, heads: int) -> str:
        return self._write.value(
            "RotaryEmbedding", rows, self._first_position, self._cosines, self._sines, domain=MICROSOFT, num_heads=heads
        )

    def _norm_of_heads(self, rows: str, weight: torch.Tensor) -> str:
        """Return the RMS norm of each head by itself."""
        write = self._write
        heads = write.value("Reshape", rows, write.constant([0, 0, -1, self._decoder.head_size], np.int64))
        gain = self._weight("head_norm", weight)
        normed = write.value("SimplifiedLayerNormalization", heads, gain, axis=-1, epsilon=self._decoder.epsilon)
        return write.value("Reshape", normed, write.constant([0, 0, -1], np.int64))

    def _feed_forward(self, rows: str, layer: Layer, name: str) -> str:
        write = self._write
        gate = self._products.feed_forward.linear(f"{name}.gate", rows, *layer.gate)
        up = self._products.feed_forward.linear(f"{name}.up", rows, *layer.up)
        activated = write.value("Mul", gate, write.value("Sigmoid", gate))
        return self._products.down.linear(f"{name}.down", write.value("Mul", activated, up), *layer.down)

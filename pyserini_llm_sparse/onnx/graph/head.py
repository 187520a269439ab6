"""The sparse head as a graph: hidden states to the heaviest terms, as the module `head` defines them for torch.

In int8 the projection only finds the candidates, and their logits are computed once more from the hidden states in
float32 and the weights in float16. A sparse vector ends where logits cross 0, and many terms lie close below: errors
that hardly change a weight would put several times as many terms into a vector. For the few hundred candidates of a
text the second product is small beside the first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from pyserini_llm_sparse.onnx.graph.calibration import HeadCalibration
from pyserini_llm_sparse.onnx.graph.products import PartProducts, Tables, array_of
from pyserini_llm_sparse.onnx.graph.writer import MICROSOFT, GraphWriter

TERMS_PER_BLOCK = 2048  # of the vocabulary projection; 16,384 tokens then take 134 MB at a time
CANDIDATES = 2  # for each term that is wanted at most, and then some
MORE_CANDIDATES = 64
TOKENS_PER_TERM = 2  # where tokens are folded: a word has about that many that are heavy at once


class HeadGraph:
    """Adds the head to a graph."""

    def __init__(
        self,
        write: GraphWriter,
        products: PartProducts,
        tables: Tables,
        logit_scale: float,
        calibration: HeadCalibration | None,
    ) -> None:
        """Start the head.

        Args:
            write: The graph.
            products: How its parts multiply.
            tables: The embeddings, among them the output embedding.
            logit_scale: Factor on the logits before the activation.
            calibration: Of a head in int8; else None.
        """
        self._write = write
        self._products = products.head
        self._tables = tables
        self._logit_scale = logit_scale
        self._calibration = calibration
        self._bias = ""

    def terms(
        self,
        hidden: str,
        weight: Tensor,
        allowed: NDArray[np.bool_],
        bias: Tensor | None = None,
        term_of: NDArray[np.int64] | None = None,
    ) -> None:
        """Add the head and with it the graph's outputs.

        Args:
            hidden: Value ``[batch, sequence, hidden]``.
            weight: The output embedding, ``[vocabulary, hidden]``.
            allowed: ``[vocabulary]``, true for ids whose logits count.
            bias: The output layer's, ``[vocabulary]``.
            term_of: ``[vocabulary]``, the id that stands for the term of each; None where each is its own.
        """
        write = self._write
        stands = "" if term_of is None else write.weight("term_of", term_of)
        self._bias = "" if bias is None else write.weight("head.bias", array_of(bias))
        pooled = self._pooled(hidden)
        never = write.constant(-np.inf, np.float32)
        logits = write.value("Where", write.weight("allowed", allowed), self._largest_logits(pooled, weight), never)
        ids = ""
        if self._calibration is not None:
            tokens_per_term = 1 if term_of is None else TOKENS_PER_TERM
            logits, ids = self._rescored(logits, pooled, weight, self._calibration.margin, tokens_per_term)
        if stands:
            stands = write.value("Gather", stands, ids) if ids else stands
            logits, ids = self._folded(logits, stands, len(weight)), ""
        values, places = self._heaviest(logits, "k")
        ids = write.value("GatherElements", ids, places, axis=1) if ids else places
        # The activation does not change the order, so it comes last, for the terms that stay.
        positive = write.value("Relu", self._scaled(values))
        write.name(write.value("Log", write.value("Add", positive, write.constant(1, np.float32))), "weights")
        write.name(ids, "term_ids")

    def _folded(self, logits: str, stands: str, vocabulary: int) -> str:
        """Return the largest logit of each term, ``[batch, vocabulary]``; minus infinity where no term stands.

        Args:
            logits: ``[batch, tokens]``.
            stands: The id that stands for the term of each token, ``[tokens]`` or ``[batch, tokens]``.
            vocabulary: Number of ids.
        """
        write = self._write
        texts = write.value("Shape", logits, start=0, end=1)
        shape = write.value("Concat", texts, write.constant([vocabulary], np.int64), axis=0)
        nowhere = write.value("Expand", write.constant(-np.inf, np.float32), shape)
        places = write.value("Expand", stands, write.value("Shape", logits))
        return write.value("ScatterElements", nowhere, places, logits, axis=1, reduction="max")

    def _pooled(self, hidden: str) -> str:
        """Return hidden states of pooled positions only, ``[batch, length, hidden]``.

        What lies before the first pooled position of all texts is cut off: for echo the first copy, half of the work.
        Other positions that are not pooled get the state of the text's first that is, which changes no maximum.
        """
        write = self._write
        axis, batch_axis = write.constant([1], np.int64), write.constant([-1], np.int64)
        firsts = write.value("ArgMax", write.value("Cast", "pool_mask", to=TensorProto.INT32), axis=1, keepdims=1)
        first_states = write.value("GatherND", hidden, firsts, batch_dims=1)
        start = write.value("Reshape", write.value("ReduceMin", firsts, keepdims=1), batch_axis)
        end = write.constant([np.iinfo(np.int64).max])
        mask = write.value("Unsqueeze", write.value("Slice", "pool_mask", start, end, axis), batch_axis)
        states = write.value("Slice", hidden, start, end, axis)
        return write.value("Where", mask, states, write.value("Unsqueeze", first_states, axis))

    def _largest_logits(self, pooled: str, weight: Tensor) -> str:
        """Return the largest logit of each term, ``[batch, vocabulary]``.

        The projection comes in blocks of terms, so that ``[batch, sequence, vocabulary]`` never exists.
        """
        write = self._write
        channels = None if self._calibration is None else self._calibration.channels
        if channels is not None:
            taken = write.value("Gather", pooled, write.weight("channels", array_of(channels.sources)), axis=2)
            pooled = write.value("Mul", taken, write.weight("factors", array_of(channels.hidden_factors)))
        # In a floating-point format a tied embedding is not written again.
        whole = self._tables.stored(weight) if channels is None else weight
        blocks = []
        for start in range(0, len(weight), TERMS_PER_BLOCK):
            block = whole[start : start + TERMS_PER_BLOCK]
            block = block if channels is None else channels.of_weight(block)
            blocks.append(self._products.largest("head", pooled, block))
        largest = blocks[0] if len(blocks) == 1 else write.value("Concat", *blocks, axis=1)
        if self._bias:  # the same at all positions: the maximum does not move
            largest = write.value("Add", largest, self._bias)
        # What is no number would be dropped as if it were negative; as infinity it is seen, and refused.
        return write.value("Where", write.value("IsNaN", largest), write.constant(np.inf, np.float32), largest)

    def _rescored(
        self, logits: str, pooled: str, weight: Tensor, margin: float, tokens_per_term: int
    ) -> tuple[str, str]:
        """Return exact logits of the candidates and their ids, both ``[batch, candidates]``."""
        write = self._write
        twice = write.value("Mul", "k", write.constant([CANDIDATES * tokens_per_term], np.int64))
        wanted = write.value("Add", twice, write.constant([MORE_CANDIDATES], np.int64))
        values, ids = self._heaviest(logits, wanted, margin)
        products = write.value("FusedMatMul", self._tables.rows(weight, ids), pooled, domain=MICROSOFT, transB=1)
        exact = write.value("ReduceMax", products, write.constant([2], np.int64), keepdims=0)
        if self._bias:
            exact = write.value("Add", exact, write.value("Gather", self._bias, ids))
        # Beyond its own candidates a text has others where its neighbours have more: they must not count.
        own = write.value("Greater", values, write.constant(-margin, np.float32))
        return write.value("Where", own, exact, write.constant(-np.inf, np.float32)), ids

    def _heaviest(self, logits: str, wanted: str, margin: float = 0.0) -> list[str]:
        """Return the largest of each row and their places, as many as are above ``-margin`` in any row or wanted."""
        write = self._write
        above = write.value("Greater", logits, write.constant(-margin, np.float32))
        counts = write.value(
            "ReduceSum", write.value("Cast", above, to=TensorProto.INT64), write.constant([1], np.int64), keepdims=1
        )
        most = write.value("Reshape", write.value("ReduceMax", counts, keepdims=1), write.constant([1], np.int64))
        # The operator refuses to return none.
        number = write.value("Max", write.value("Min", wanted, most), write.constant([1], np.int64))
        return write.node("TopK", [logits, number], 2, axis=1, largest=1, sorted=1)

    def _scaled(self, logits: str) -> str:
        scale = self._logit_scale
        return logits if scale == 1.0 else self._write.value("Mul", logits, self._write.constant(scale, np.float32))

"""The body of a model's graph: up to the last hidden states, by whichever builder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from pyserini_llm_sparse.onnx.graph.products import PartProducts, Tables
    from pyserini_llm_sparse.onnx.graph.writer import GraphWriter


Builder = Literal["fused", "torch", "optimum"]


BuilderChoice = Literal["auto", "fused", "torch", "optimum"]


CHOICES: tuple[BuilderChoice, ...] = ("auto", "fused", "torch", "optimum")


class Body(Protocol):
    """A model up to its last hidden states, and what the head behind them needs.

    Attributes:
        builder: Who made it.
        head: The output embedding, ``[vocabulary, hidden]``.
        head_bias: The output layer's bias ``[vocabulary]``, or None.
        positions: Maximum number of tokens of a text.
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

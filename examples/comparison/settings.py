"""What the comparison holds equal, and what differs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SOURCES = ("squad", "stackexchange", "medquad", "bioqa", "wiki_sections")
BATCH = 16
NEGATIVES = 1
QUERY_LENGTH = 32
DOCUMENT_LENGTH = 96
FLOPS_WEIGHT = 3e-3
LEARNING_RATE = 2e-4
WARM_UP = 0.1
FIGURES = "figures.json"  # beside each result: what was measured


@dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
        name: As in the table.
        start: ``causal-lm``, the start that is given; ``bert``, the sentence encoder's own weights.
        attention: Attention variant; of BERT only ``bidirectional``.
        representation: ``sparse`` or ``dense``.
    """

    name: str
    start: Literal["causal-lm", "bert"]
    attention: Literal["causal", "echo", "bidirectional"]
    representation: Literal["sparse", "dense"]

    def folder(self, work: Path) -> Path:
        """Return where the result goes."""
        return work / "runs" / self.name.replace(" ", "-").lower()


MODELS = (
    Model("causal", "causal-lm", "causal", "sparse"),
    Model("echo", "causal-lm", "echo", "sparse"),
    Model("bidirectional", "causal-lm", "bidirectional", "sparse"),
    Model("dense", "causal-lm", "bidirectional", "dense"),
    Model("BERT SPLADE", "bert", "bidirectional", "sparse"),
)

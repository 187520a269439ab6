"""What the scaling study compares, and how many steps a budget buys."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

VOCABULARY = 4096
BATCH = 16
NEGATIVES = 4
QUERY_LENGTH = 24
DOCUMENT_LENGTH = 48
TOKENS_OF_A_STEP = BATCH * (QUERY_LENGTH + (1 + NEGATIVES) * DOCUMENT_LENGTH)  # as if no text were shorter


@dataclass(frozen=True)
class Size:
    """A Llama's shape."""

    name: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int

    @property
    def body_parameters(self) -> int:
        """Weights of the layers, all of which a token passes: attention and the three matrices of feed-forward."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.feed_forward)


SIZES = (Size("S", 2, 128, 384, 4), Size("M", 3, 192, 576, 6), Size("L", 4, 256, 768, 8))
REPRESENTATIONS = ("sparse", "dense")
OBJECTIVES = {"CL": "contrastive", "KD": "distillation", "CL+KD": "contrastive+distillation"}


@dataclass(frozen=True)
class Run:
    """One cell of the study."""

    size: Size
    representation: str
    objective: str
    seed: int

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.size.name}-{self.representation}-{self.objective}-seed{self.seed}"

    @property
    def parameters(self) -> int:
        """Weights that a token meets; the output embedding is used by the sparse model only."""
        return self.size.body_parameters + (VOCABULARY * self.size.hidden if self.representation == "sparse" else 0)

    def steps(self, budget: float) -> int:
        """Return how many steps a budget of floating-point operations buys, at 6 for each weight and token."""
        return max(1, int(budget / (6 * self.parameters * TOKENS_OF_A_STEP)))

    def folder(self, work: Path) -> Path:
        """Return where the result goes."""
        return work / "runs" / self.name


def all_runs(seeds: int) -> list[Run]:
    """Return all runs, the first seed of each before the second of any."""
    return [
        Run(size, representation, objective, seed)
        for seed in range(seeds)
        for size, representation, objective in product(SIZES, REPRESENTATIONS, OBJECTIVES)
    ]

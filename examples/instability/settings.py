"""What the instability study varies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCES = ("squad", "stackexchange", "medquad")
ARMS = ("random weights", "no adaptation", "next-token", "CSPLADE", "CSPLADE x 10")
ADAPTATIONS = {"next-token": 0.0, "CSPLADE": 1.0, "CSPLADE x 10": 10.0}
"""Weight of the cross-entropy of ``log1p(relu(logits))``; 1 in the paper."""
BATCH = 24


@dataclass(frozen=True)
class Setting:
    """What is varied: the peak learning rate and the FLOPs weight of both sides."""

    learning_rate: float
    flops_weight: float

    @property
    def name(self) -> str:
        """A name for files and tables."""
        return f"lr{self.learning_rate:g}-flops{self.flops_weight:g}"


SETTINGS = (Setting(2e-3, 3e-2), Setting(2e-3, 3e-3), Setting(5e-4, 3e-3))


def run_folder(work: Path, setting: Setting, arm: str, seed: int) -> Path:
    """Return where a run's result goes."""
    return work / "runs" / setting.name / f"{arm.replace(' ', '-')}-seed{seed}"

"""The model that a run starts from, as the first candidate for its best checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

# In the run's folder: its trained weights, and the measures of each query.
FOLDER, MEASURES = "start", "start.json"


class MeasuredAtStart(TrainerCallback):
    """Has the model evaluated before the first step, where there is something to evaluate on."""

    def __init__(self, measure: Callable[[], None]) -> None:
        self._measure = measure

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate, unless the run goes on from a checkpoint."""
        if args.load_best_model_at_end and not state.global_step:
            self._measure()

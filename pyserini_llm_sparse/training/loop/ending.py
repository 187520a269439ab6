"""The end of a run: after some of the steps of its schedule, or at a checkpoint that is its end already."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState


class StopAfter(TrainerCallback):
    """Ends a run before its schedule does."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """End the run after the last of the steps."""
        if state.global_step >= self._steps:
            control.should_training_stop = True


def is_at_its_end(state: TrainerState, stop_after: int | None) -> bool:
    """Tell whether a checkpoint's state is that of the last step, be it the last one planned or an early stop."""
    callbacks: Any = state.stateful_callbacks or {}  # typed as what it is before it is saved
    control = callbacks.get("TrainerControl", {})
    last = min(state.max_steps, stop_after or state.max_steps)
    return state.global_step >= last or bool(control.get("args", {}).get("should_training_stop"))

"""The outcome of a run: the model as it is saved, what training changed of it, and what is said of both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.training.config.fields import AdaptConfig, ModelConfig
from pyserini_llm_sparse.training.loop.run_folder import RunFolder
from pyserini_llm_sparse.training.loop.trainer import AdaptationTrainer, RetrievalTrainer
from pyserini_llm_sparse.training.results.evaluation import Measures
from pyserini_llm_sparse.training.results.progress import Change, changes, load_start
from pyserini_llm_sparse.training.results.provenance import TrainingRecord, environment
from pyserini_llm_sparse.training.results.result import as_saved, save_adaptation, save_result, saved_dtype

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunReport:
    """The outcome of a run.

    Attributes:
        output: Directory of the result.
        steps: Optimiser steps.
        seconds: Wall time of the training, resumed parts together.
        measures: What the result reaches on the development set or the held-out text.
        changes: What training changed of it, the measure of the run file first; in the first process only.
    """

    output: Path
    steps: int
    seconds: float
    measures: Mapping[str, float] = field(default_factory=dict)
    changes: Sequence[Change] = ()

    def summary(self) -> str:
        """Return one line that says what there is now."""
        found = "".join(f", {name} {value:.4f}" for name, value in list(self.measures.items())[:1])
        for change in self.changes[:1]:
            found = f", {change.shown()} over {change.queries:,} queries"
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        return f"{self.output}: trained {steps} in {self.seconds / 60:.1f} min{found}"


def trained_model(trainer: AdaptationTrainer | RetrievalTrainer, checkpoint: Checkpoint) -> Any:
    """Return the model with the weights that will be saved; None in processes that have none of a sharded one."""
    model = trainer.finished_model()
    if model is not None:
        as_saved(model, trainer.run_config, saved_dtype(trainer.run_config, checkpoint))
    return model


def finish(
    trainer: AdaptationTrainer | RetrievalTrainer,
    model: Any,
    folder: RunFolder,
    data: list[dict[str, Any]],
    checkpoint: Checkpoint,
    measures: Mapping[str, float],
    facts: Mapping[str, Any],
) -> RunReport:
    """Save the result and free the disk of checkpoints; only the first process writes."""
    config, seconds, made = trainer.run_config, folder.seconds(), list[Change]()
    if trainer.accelerator.is_main_process:
        if isinstance(measures, Measures) and measures:
            made = changes(load_start(folder.start_measures), measures.by_query)
        kept = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
        _warn(config, measures, made, kept)
        record = TrainingRecord(
            config=config,
            environment=environment(trainer.accelerator),
            data=data,
            log=trainer.state.log_history,
            measures=measures,
            facts=facts if kept is None else {**facts, "step of the result": kept},
            seconds=seconds,
            changes=made,
            kept=kept,
            dtype=saved_dtype(config, checkpoint),
        )
        save = save_adaptation if isinstance(config, AdaptConfig) else save_result
        save(model, checkpoint.tokenizer, record)
        folder.finish()
    trainer.accelerator.wait_for_everyone()
    return RunReport(config.output, trainer.state.global_step, seconds, measures, made)


def _warn(config: ModelConfig, measures: Mapping[str, float], made: Sequence[Change], kept: int | None) -> None:
    """Say what nobody would see in a number alone: that nothing was measured, or gained."""
    if not measures:
        wanted = "held_out_texts: N" if isinstance(config, AdaptConfig) else "dev: a BEIR directory"
        _logger.warning("%s: nothing was measured: nobody knows whether it is better; set %s", config.output, wanted)
    elif kept == 0:
        _logger.warning(
            "%s: no checkpoint measured better than the start: the result is the model that training started from; "
            "train longer, or change trainer.learning_rate or the data (start_is_candidate: false takes the best of "
            "the others)", config.output,
        )  # fmt: skip
    for change in made:
        if change.is_loss:
            _logger.warning("%s: training has made it worse: %s", config.output, change.shown())

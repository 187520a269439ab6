"""The Trainer that both phases extend: data order, checkpoints, and the parts of the loss in the log.

The Trainer carries the loop: optimiser, schedule, accumulation, several processes, checkpoints, resuming. This module
and `trainer` are alone in touching its internals.

DDP and FSDP (version 2) are tested, over gloo. DeepSpeed is handed to the Trainer's own paths and has never been run
here; with ZeRO-3 the output layer's weight is used outside its module, which DeepSpeed must notice by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import load_fsdp_model, save_fsdp_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState

from pyserini_llm_sparse.errors import DataError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.training.config.arguments import LOGS
from pyserini_llm_sparse.training.config.fields import ModelConfig
from pyserini_llm_sparse.training.data.batching import ExampleDataset
from pyserini_llm_sparse.training.data.sampling import EpochDataset, EpochSampler
from pyserini_llm_sparse.training.loop.ending import StopAfter, is_at_its_end
from pyserini_llm_sparse.training.loop.known_trainer import require_known_trainer
from pyserini_llm_sparse.training.loop.start import FOLDER, MeasuredAtStart
from pyserini_llm_sparse.training.retriever.model import TrainableModel

WEIGHTS = "model.safetensors"  # the name by which the Trainer recognises a checkpoint

_logger = logging.getLogger(__name__)


class PhaseTrainer(Trainer):
    """The part that both phases share.

    Attributes:
        run_config: The run file.
    """

    loss_is_scaled_for_ga = False  # `compute_loss` gives the mean of a micro-batch; the Trainer takes theirs

    def __init__(
        self,
        model: TrainableModel,
        args: TrainingArguments,
        *,
        config: ModelConfig,
        train_dataset: Any,
        data_collator: Callable[[list[Any]], Mapping[str, Tensor]],
        eval_dataset: Any = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        require_known_trainer()
        if args.fsdp and args.world_size == 1:
            raise UsageError("trainer: fsdp: there is one process only; start several with `accelerate launch`")
        self.run_config = config
        self._root = model  # as it is before anything is wrapped
        self._sums: dict[str, Tensor] = {}
        self._micro_batches = 0
        early = config.early_stopping_patience
        stopping: list[Any] = [EarlyStoppingCallback(early)] if early is not None else []
        if config.stop_after_steps is not None:
            stopping.append(StopAfter(config.stop_after_steps))
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,  # type: ignore[arg-type]  # its examples are objects of ours
            eval_dataset=eval_dataset,
            callbacks=[*stopping, *(callbacks or []), MeasuredAtStart(self.measure_start)],
        )
        if not self.is_deepspeed_enabled:
            # Earlier versions have accelerate divide by it once more (transformers issue 45305; seen in 5.2).
            self.accelerator.gradient_accumulation_steps = 1
        self.remove_callback(PrinterCallback)  # standard output is for results
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = str(Path(str(args.output_dir)) / LOGS)
        self._check(args, train_dataset)

    def _check(self, args: TrainingArguments, train_dataset: Any) -> None:
        """Refuse what would silently train something else."""
        if args.n_gpu > 1:
            raise UsageError(
                f"{args.n_gpu} GPUs, one process: a batch would be torn apart; start with `accelerate launch` or "
                "`torchrun`, or set CUDA_VISIBLE_DEVICES=0"
            )
        if args.fsdp and not self.is_fsdp_enabled:
            raise UsageError(
                f"trainer: fsdp: accelerate does not shard on {args.device.type} and would copy the model into each "
                "process; leave fsdp out, or start on GPUs"
            )
        batch = args.train_batch_size * args.world_size
        examples = len(train_dataset) if hasattr(train_dataset, "__len__") else None
        if examples is not None and args.dataloader_drop_last and examples < batch:
            raise UsageError(
                f"train: {examples} examples are fewer than one batch of {batch}; lower "
                "trainer.per_device_train_batch_size"
            )

    def go_on(self, last: str | None) -> None:
        """Train to the end from a checkpoint, or from the start; one that is the end itself is only loaded.

        The Trainer by itself looks for the end after a step, so that each time one more would be trained.

        Args:
            last: The newest checkpoint; None if there is none.
        """
        state = None if last is None else TrainerState.load_from_json(str(Path(last) / TRAINER_STATE_NAME))
        if state is None or not is_at_its_end(state, self.run_config.stop_after_steps):
            self.train(resume_from_checkpoint=last)
        elif self.is_sharded:
            _logger.warning("%s: is the end, but what is sharded can only be loaded by training one step more", last)
            self.train(resume_from_checkpoint=last)
        else:
            self.state = state
            self._load(Path(str(last)))
            if self.args.load_best_model_at_end:
                self._load_best_model()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the dataset's own sampler, which keeps equal texts out of a step, unless another is asked for."""
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        if not isinstance(dataset, EpochDataset) or self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        seed = self.run_config.seed
        block = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return dataset.sampler(seed, block) if isinstance(dataset, ExampleDataset) else EpochSampler(dataset, seed)

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds the whole model."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def measure_start(self) -> None:
        """Evaluate the model before the first step and keep it, as the best until a checkpoint is better."""
        metrics = self.evaluate()
        if not self.run_config.start_is_candidate:
            return
        self._determine_best_metric(metrics, None)
        folder = Path(str(self.args.output_dir)) / FOLDER
        with disk_errors(folder):
            self._keep_start(folder)
        self.state.best_model_checkpoint = str(folder)

    def _keep_start(self, folder: Path) -> None:
        if self.is_deepspeed_enabled:
            wrapped: Any = self.model_wrapped
            wrapped.save_checkpoint(str(folder))
        elif self.is_fsdp_enabled:
            folder.mkdir(parents=True, exist_ok=True)
            save_fsdp_model(self.accelerator.state.fsdp_plugin, self.accelerator, self.model, str(folder))
        else:
            self._save(str(folder))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Have a checkpoint that is the best so far saved, however seldom others are."""
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.state.global_step:
            self.control.should_save = True
        return is_best

    def finished_model(self) -> TrainableModel | None:
        """Return the trained model, whole and unwrapped; all processes must call it.

        Returns:
            None in all processes but the first where the model was sharded.
        """
        if not self.is_sharded:
            return self._root
        state = self.accelerator.get_state_dict(self.model_wrapped)
        if not self.accelerator.is_main_process:
            return None
        return self._root.rebuild().load_trained_weights(self._trained(state), "the sharded model")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, means over the micro-batches since the last time as the loss itself is."""
        if "loss" in logs:
            logs.update(self._drained())
        super().log(logs, start_time)
        if self.args.disable_tqdm and self.is_world_process_zero():  # no progress bar shows them
            shown = ", ".join(f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, (int, float)))
            _logger.info("step %d of %d: %s", self.state.global_step, self.state.max_steps, shown)

    def _record(self, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Keep the parts of a micro-batch's loss for the log, and stop where it is no number.

        Raises:
            RunError: The loss is not finite.
        """
        if not bool(torch.isfinite(loss)):
            listed = ", ".join(f"{name} {float(part):g}" for name, part in parts.items())
            raise RunError(
                f"step {self.state.global_step + 1}: the loss is {float(loss.detach())} ({listed}); lower "
                "trainer.learning_rate, set trainer.warmup_steps, or compute in bf16 rather than fp16"
            )
        self._micro_batches += 1
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(part)) + part.detach()

    def _drained(self) -> dict[str, float]:
        count, sums = self._micro_batches, self._sums
        self._sums, self._micro_batches = {}, 0
        names = sorted(sums)
        if not names:
            return {}
        means = torch.stack([sums[name].float() / count for name in names])
        means = self.accelerator.reduce(means, reduction="mean")
        return dict(zip(names, means.tolist(), strict=True))

    def _trained(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return of a whole model's state the weights that are trained."""
        return self._root.trained_weights(state)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint, saying where if the disk is full."""
        with disk_errors(Path(str(self.args.output_dir))):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the weights that are trained, and nothing that can be had from the model that the run started from."""
        if not self.args.should_save:
            return
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        weights = self._root.trained_weights() if state_dict is None else self._trained(state_dict)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled and not self.state.best_global_step:
            plugin, folder = self.accelerator.state.fsdp_plugin, str(self.state.best_model_checkpoint)
            load_fsdp_model(plugin, self.accelerator, self.model, folder)
        elif self.is_sharded:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            self._load(Path(self.state.best_model_checkpoint))

    def _load(self, folder: Path) -> None:
        try:
            self._root.load_trained_weights(load_file(folder / WEIGHTS), str(folder))
        except OSError as error:
            raise ResourceError(
                f"{folder / WEIGHTS}: cannot be read: {error}; resume from another checkpoint"
            ) from error
        except SafetensorError as error:
            raise DataError(f"{folder / WEIGHTS}: damaged: {error}; resume from another checkpoint") from error

    def _reported(self, metrics: dict[str, float], started: float) -> dict[str, float]:
        """Log an evaluation and tell the callbacks."""
        metrics["eval_runtime"] = round(time.monotonic() - started, 3)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

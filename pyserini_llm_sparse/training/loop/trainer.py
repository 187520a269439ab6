"""The trainers of the two phases: the loss of a batch over all processes, gradient caching, and what is measured."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.loop.phase_trainer import PhaseTrainer
from pyserini_llm_sparse.training.objectives.health import CollapseDetector, vector_health
from pyserini_llm_sparse.training.objectives.language_modelling import NOT_PREDICTED
from pyserini_llm_sparse.training.objectives.negatives import holds
from pyserini_llm_sparse.training.objectives.ranking import RetrievalObjective
from pyserini_llm_sparse.training.objectives.regularisation import ramp
from pyserini_llm_sparse.training.retriever.gathering import gather
from pyserini_llm_sparse.training.retriever.gradient_cache import cached_backward
from pyserini_llm_sparse.training.retriever.model import RetrievalModel


class RetrievalTrainer(PhaseTrainer):
    """Trains a retriever.

    Every process computes the loss of the batch of all, over gathered vectors; see `gathering.gather`.
    """

    def __init__(
        self,
        model: RetrievalModel,
        args: TrainingArguments,
        *,
        config: RetrieveConfig,
        train_dataset: Any,
        data_collator: Callable[[list[Any]], Mapping[str, Tensor]],
        evaluator: Callable[[RetrievalModel], Mapping[str, float]] | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            model: What is trained.
            args: From `arguments.training_arguments`.
            config: The run file.
            train_dataset: What `data_collator` makes batches of.
            data_collator: A `RetrievalCollator`.
            evaluator: Measures the model as it is, in all processes alike; gives at least ``config.dev_metric``.
            callbacks: Further callbacks.
        """
        self.objective: RetrievalObjective = RetrievalObjective(config)
        self.evaluator = evaluator
        self._health: dict[str, float] = {}
        super().__init__(
            model,
            args,
            config=config,
            train_dataset=train_dataset,
            data_collator=data_collator,
            eval_dataset=() if evaluator is not None else None,  # the Trainer asks for one, but only `evaluate` looks
            callbacks=callbacks,
        )
        if config.gradient_cache_size is not None and self.is_deepspeed_enabled:
            raise UsageError(
                "gradient_cache_size: DeepSpeed steps after each backward pass; use FSDP or DDP, or leave it out"
            )
        self._retrieve_config = config
        self._detector: CollapseDetector | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of the batch of all processes."""
        texts, rest = _texts_and_rest(inputs)
        queries, documents = model(**texts)
        loss = self._loss(queries, documents, rest, self._own_weights(inputs))
        return (loss, {"queries": queries, "documents": documents}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Add a micro-batch's gradient to the weights, with gradient caching if that is wanted."""
        size = self._retrieve_config.gradient_cache_size
        if size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        (texts, rest), own_weights = _texts_and_rest(inputs), self._own_weights(inputs)
        steps = self.current_gradient_accumulation_steps
        loss = cached_backward(
            model,
            texts,
            size,
            lambda queries, documents: self._loss(queries, documents, rest, own_weights),
            lambda surrogate: self.accelerator.backward(surrogate / steps),
            deferred=model.no_sync if isinstance(model, DistributedDataParallel) else nullcontext,
            queries_at_once=self._retrieve_config.query_encoder == "inference-free",
        )
        return loss / steps

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the model with the evaluator that the run was given."""
        if self.evaluator is None:
            raise UsageError("evaluate: there is nothing to evaluate on; set dev: a BEIR directory")
        started = time.monotonic()
        model: Any = self.model
        was_training = model.training
        model.eval()
        with torch.no_grad():
            found = self.evaluator(model)
        model.train(was_training)
        wanted = self._retrieve_config.dev_metric
        if wanted not in found:
            raise UsageError(f"dev_metric: {wanted}: not measured; measured are {', '.join(found)}; choose one of them")
        return self._reported({f"{metric_key_prefix}_{name}": float(value) for name, value in found.items()}, started)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the vectors' health, and stop where they have collapsed."""
        is_step = "loss" in logs
        if is_step:
            logs.update(self._health)
        super().log(logs, start_time)
        if is_step and self._health and self._retrieve_config.stop_on_collapse:
            if self._detector is None:
                self._detector = CollapseDetector(
                    self._retrieve_config, self._root.backbone.model.config.vocab_size, self._ramp_steps
                )
            self._detector.update(self.state.global_step, self._health)

    @property
    def _ramp_steps(self) -> int:
        return math.ceil(self._retrieve_config.regulariser_ramp * self.state.max_steps)

    def _own_weights(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return what the documents' own terms shall weigh, None where the loss does not ask for it."""
        config = self._retrieve_config
        if config.representation == "dense" or not (config.lexical_weight or config.regularised_terms == "expansions"):
            return None
        root: Any = self._root
        weights: Tensor = root.own_weights(inputs["document_input_ids"], inputs["document_pool_mask"])
        return weights

    def _loss(
        self, queries: Tensor, documents: Tensor, rest: Mapping[str, Tensor], own_weights: Tensor | None = None
    ) -> Tensor:
        """Return the loss of the vectors of all processes, whose own come as arguments."""
        queries, documents = gather(queries), gather(documents)
        document_keys = gather(rest["document_keys"])
        # A row for each query of its own, for the keys of positives are not as many in each process.
        relevant = holds(rest["positive_keys"], document_keys)
        teacher_scores = rest.get("teacher_scores")
        loss, parts = self.objective(
            queries,
            documents,
            query_keys=gather(rest["query_keys"]),
            document_keys=document_keys,
            relevant=gather(relevant.byte()).bool(),
            teacher_scores=None if teacher_scores is None else gather(teacher_scores),
            ramp=ramp(self.state.global_step, self._ramp_steps),
            own_weights=None if own_weights is None else gather(own_weights),
        )
        self._record(loss, parts)
        if self._will_log():
            self._health = vector_health(queries.detach(), documents.detach())
        return loss

    def _will_log(self) -> bool:
        """Tell whether this optimiser step will be logged, for measuring all would cost a little in each."""
        step = self.state.global_step + 1
        if self.args.logging_strategy != "steps" or step >= self.state.max_steps:
            return True
        return step % max(1, int(self.state.logging_steps)) == 0 or (step == 1 and self.args.logging_first_step)


class AdaptationTrainer(PhaseTrainer):
    """Adapts a language model, before it learns to retrieve."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the mean cross-entropy of the process's own sequences; DDP takes the mean of all."""
        loss, parts = self._loss(model, inputs)
        self._record(loss, parts)
        return (loss, parts) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the mean loss and its parts over the tokens of the held-out sequences."""
        started = time.monotonic()
        model: Any = self.model
        was_training = model.training
        model.eval()
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        # Not the Trainer's loader, which leaves out a last batch that is not full, as training must.
        loader = DataLoader(
            dataset, batch_size=self.args.per_device_eval_batch_size, collate_fn=self.data_collator
        )  # fmt: skip
        sums, names = torch.zeros(1), ["loss"]
        with torch.no_grad():
            for inputs in self.accelerator.prepare(loader):
                loss, parts = self._loss(model, self._prepare_inputs(inputs))
                predicted = (inputs["targets"] != NOT_PREDICTED).sum().to(loss.dtype)
                found = torch.stack([loss, *parts.values(), torch.ones_like(loss)]) * predicted
                sums, names = sums.to(found) + found, ["loss", *parts]
        model.train(was_training)
        totals = self.accelerator.reduce(sums, reduction="sum")
        if not bool(totals[-1]):
            raise UsageError("evaluate: there is no held-out text; raise held_out_texts")
        means = (totals[:-1] / totals[-1]).tolist()
        return self._reported(
            {f"{metric_key_prefix}_{name}": mean for name, mean in zip(names, means, strict=True)}, started
        )

    def _loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "targets")})
        root: Any = self._root
        if not root.sparse_weight:
            return first, {"next_token": first.detach()}
        loss = first + root.sparse_weight * second
        return loss, {"next_token": first.detach(), "sparse_next_token": root.sparse_weight * second.detach()}


def _texts_and_rest(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a batch into what the model takes and what the objective takes."""
    taken = tuple(inspect.signature(RetrievalModel.forward).parameters)
    texts = {name: tensor for name, tensor in inputs.items() if name in taken}
    return texts, {name: tensor for name, tensor in inputs.items() if name not in taken}

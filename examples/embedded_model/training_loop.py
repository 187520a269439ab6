"""The training loop: a time or step budget with its learning rate schedule, checkpoints, resuming and a log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from batching import TrainingSet, assemble, batches
from encoding import training_logits
from objectives import Weights, retrieval_loss
from torch import Tensor, nn
from transformers import LlamaForCausalLM

logger = logging.getLogger("training")

CLIP = 1.0
WARM_UP = 0.03
LAST_RATE = 0.05  # of the highest learning rate


@dataclass(frozen=True)
class Budget:
    """When a phase ends: after `minutes`, or after `steps` if that comes first; either may be None."""

    minutes: float | None
    steps: int | None

    def progress(self, elapsed: float, step: int) -> float:
        """Return how much of the budget is used, from 0 to 1."""
        used = [0.0]
        if self.minutes:
            used.append(elapsed / (60 * self.minutes))
        if self.steps:
            used.append(step / self.steps)
        return min(max(used), 1.0)


@dataclass(frozen=True)
class Settings:
    """Knobs of the retrieval phase."""

    batch: int = 64
    longest: int = 200
    sampled_terms: int = 512
    layer_rate: float = 4e-4
    embedding_rate: float = 1e-4
    head_rate: float = 5e-5
    table_rate: float = 1e-3
    seed: int = 7
    save_seconds: float = 180
    weights: Weights = field(default_factory=Weights)


class Student(nn.Module):
    """The model together with the query table and the temperature that are learnt beside it."""

    initial_table: Tensor
    model: LlamaForCausalLM

    def __init__(self, model: LlamaForCausalLM, initial_table: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("initial_table", initial_table)
        self.table_change = nn.Parameter(torch.zeros_like(initial_table))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(1.67)))

    def table(self) -> Tensor:
        """Return the query weights: never negative, and 0 for stop-words for good."""
        return self.initial_table * torch.exp(self.table_change)


def learning_rate_factor(progress: float) -> float:
    """Return the factor on the learning rates: a short rise, then half a cosine."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.05)
    fraction = (progress - WARM_UP) / (1 - WARM_UP)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fraction))


def parameter_groups(student: Student, settings: Settings) -> list[dict[str, Any]]:
    """Return the parameters by learning rate: layers, embedding, head, query table and temperature."""
    embedding, head = student.model.model.embed_tokens.weight, student.model.lm_head.weight
    known = {id(embedding), id(head)}
    layers = [parameter for parameter in student.model.parameters() if id(parameter) not in known]
    return [
        {"params": layers, "rate": settings.layer_rate, "weight_decay": 0.01},
        {"params": [embedding], "rate": settings.embedding_rate, "weight_decay": 0.0},
        {"params": [head], "rate": settings.head_rate, "weight_decay": 0.0},
        {"params": [student.table_change, student.log_temperature], "rate": settings.table_rate, "weight_decay": 0.0},
    ]


def train(
    student: Student,
    training: TrainingSet,
    average_length: float,
    settings: Settings,
    budget: Budget,
    folder: Path,
    evaluate: Callable[[Student], dict[str, float]] | None,
    evaluate_minutes: float,
    resume: bool,
) -> None:
    """Train until the budget is used; the state is written to `folder` from time to time and at the end."""
    optimizer = torch.optim.AdamW(parameter_groups(student, settings), lr=0.0, betas=(0.9, 0.98))
    state_file = folder / "state.pt"
    step, before = 0, 0.0
    if resume and state_file.exists():
        step, before = _restore(state_file, student, optimizer)
        logger.info("resumed at step %d after %.1f minutes", step, before / 60)
    terms = torch.nonzero(student.initial_table)[:, 0]
    generator = torch.Generator().manual_seed(settings.seed + step)
    started = saved = evaluated = time.monotonic()
    student.train()
    for rows in batches(training.document_embeddings, training.rows, settings.batch, settings.seed, first=step):
        elapsed = before + time.monotonic() - started
        progress = budget.progress(elapsed, step)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate_factor(progress)
        texts, batch = assemble(training, rows, settings.longest, student.initial_table, average_length)
        sampled = terms[torch.randperm(len(terms), generator=generator)[: settings.sampled_terms]]
        logits, stray = training_logits(student.model, texts, settings.longest, sampled)
        loss, parts = retrieval_loss(
            logits,
            stray,
            sampled,
            student.table(),
            student.initial_table,
            student.log_temperature.exp(),
            batch,
            settings.weights,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        step += 1
        if step % 10 == 0:
            told = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            speed = settings.batch * step / max(before + time.monotonic() - started, 1e-9)
            logger.info("step %d %.0f%% loss %.3f %s pairs/s %.1f", step, 100 * progress, loss.item(), told, speed)
        now = time.monotonic()
        if now - saved > settings.save_seconds:
            _keep(state_file, student, optimizer, step, before + now - started)
            saved = now
        if evaluate is not None and now - evaluated > 60 * evaluate_minutes:
            logger.info("step %d development %s", step, evaluate(student))
            evaluated = time.monotonic()
    _keep(state_file, student, optimizer, step, before + time.monotonic() - started)


def _keep(path: Path, student: Student, optimizer: torch.optim.Optimizer, step: int, elapsed: float) -> None:
    temporary = path.with_suffix(".tmp")
    state = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "elapsed": elapsed}
    torch.save(state, temporary)
    temporary.replace(path)


def _restore(path: Path, student: Student, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    state = torch.load(path, weights_only=True)
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["elapsed"])

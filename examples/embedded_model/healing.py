"""Teaches a converted model to say at BOS what the sentence encoder says of the text: distillation of its embedding."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from conversion import OWN_DIMENSIONS
from encoding import IN_BFLOAT16, hidden_states, padded
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from training_loop import CLIP, Budget, learning_rate_factor
from transformers import LlamaForCausalLM

BATCH = 32  # passages, and as many queries
WINDOW = 512  # passages among which those of like length are put together
SAMPLE = 1024  # passages by which the reader is fitted before any training
RIDGE = 1000.0  # of that fit, times the mean square of a dimension
QUERIES = 0.5  # weight of the error of queries: these texts are short, so it costs little

logger = logging.getLogger("training")


@dataclass
class Embedded:
    """Token ids of texts, and the encoder's embeddings of them, ``[texts, dimensions]``."""

    texts: Sequence[np.ndarray]
    embeddings: np.ndarray

    def part(self, rows: Sequence[int] | np.ndarray) -> tuple[list[np.ndarray], Tensor]:
        """Return some of both."""
        return [self.texts[row] for row in rows], torch.from_numpy(self.embeddings[rows].astype(np.float32))


def heal(
    model: LlamaForCausalLM, passages: Embedded, queries: Embedded, budget: Budget, rate: float, longest: int, seed: int
) -> nn.Linear:
    """Train until the budget is used; the head is left alone.

    Args:
        model: As `initialisation.initial_model` made it.
        passages, queries: What to learn.
        budget: Minutes or steps.
        rate: Highest learning rate.
        longest: Most tokens of a text.
        seed: Seed of the order.

    Returns:
        The map from the encoder's dimensions of the last state at BOS to the encoder's embedding.
    """
    reader = _reader(model, passages, longest)
    protected = _protect_own_terms(model)
    parameters = [*model.model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
    generator = np.random.default_rng(seed)
    lengths = np.array([len(text) for text in passages.texts])
    spread = float(passages.embeddings.astype(np.float32).var(0).sum())
    started, step, history = time.monotonic(), 0, []
    model.train()
    while True:
        window = generator.permutation(len(passages.texts))[:WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        for start in generator.permutation(range(0, len(window), BATCH)):
            progress = budget.progress(time.monotonic() - started, step)
            if progress >= 1:
                for handle in protected:
                    handle.remove()
                return reader
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate_factor(progress)
            errors = []
            optimizer.zero_grad(set_to_none=True)
            asked = generator.integers(len(queries.texts), size=BATCH)
            for (texts, wanted), weight in (
                (passages.part(window[start : start + BATCH]), 1.0),
                (queries.part(asked), QUERIES),
            ):
                error = (reader(topics(model, texts, longest)) - wanted).square().sum(1).mean() / spread
                (weight * error).backward()
                errors.append(1 - error.item())
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            step += 1
            history.append(errors)
            if step % 50 == 0:
                passage, query = np.mean(history[-50:], 0)
                told = f"{passage:.3f} of passages, {query:.3f} of queries"
                logger.info("healing step %d %.0f%% explains %s", step, 100 * progress, told)


def _protect_own_terms(model: LlamaForCausalLM) -> list[RemovableHandle]:
    """Keep the own dimensions as they are: no gradient for what writes them, nor for the head that counts terms.

    All else may read them. Without this they would be used for what the encoder says, and terms would lose their names.
    """
    layers = model.model.layers
    first = layers[0].self_attn
    writers = [projection for layer in layers for projection in (layer.self_attn.o_proj, layer.mlp.down_proj)]
    writers += [first.q_proj, first.k_proj, first.v_proj]

    def without_last_rows(gradient: Tensor) -> Tensor:
        return torch.cat([gradient[:-OWN_DIMENSIONS], torch.zeros_like(gradient[-OWN_DIMENSIONS:])])

    handles = [part.register_hook(without_last_rows) for layer in writers for part in (layer.weight, layer.bias)]
    embedding = model.model.embed_tokens.weight
    handles.append(embedding.register_hook(lambda gradient: without_last_rows(gradient.T).T))
    return handles


def topics(model: LlamaForCausalLM, texts: Sequence[np.ndarray], longest: int) -> Tensor:
    """Return the encoder's dimensions of the last hidden states at BOS, float32 ``[texts, hidden]``."""
    ids, mask = padded(texts, longest, model.config)
    with torch.autocast("cpu", torch.bfloat16, enabled=IN_BFLOAT16):
        states = hidden_states(model, ids, mask)
    return states[:, 0, :-OWN_DIMENSIONS].float()


@torch.no_grad()
def _reader(model: LlamaForCausalLM, passages: Embedded, longest: int) -> nn.Linear:
    """Return the linear map from topics to embeddings that ridge regression finds before any training."""
    found, wanted = [], []
    for start in range(0, min(SAMPLE, len(passages.texts)), BATCH):
        texts, embeddings = passages.part(range(start, min(start + BATCH, len(passages.texts))))
        found.append(topics(model, texts, longest))
        wanted.append(embeddings)
    seen, aim = torch.cat(found), torch.cat(wanted)
    reader = nn.Linear(seen.shape[1], aim.shape[1])
    seen_mean, aim_mean = seen.mean(0), aim.mean(0)
    seen, aim = seen - seen_mean, aim - aim_mean
    # The pooled state points where the embedding points, so that one factor says most; regression adds the rest.
    factor = (seen * aim).sum() / seen.square().sum()
    products = seen.T @ seen + RIDGE * seen.square().mean() * torch.eye(seen.shape[1])
    change = torch.linalg.solve(products, seen.T @ (aim - factor * seen)).T
    reader.weight.copy_(factor * torch.eye(*reader.weight.shape) + change)
    reader.bias.copy_(aim_mean - reader.weight @ seen_mean)
    return reader

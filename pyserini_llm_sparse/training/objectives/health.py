"""Signs of life of vectors while they are trained, and the end of a run whose vectors have collapsed.

Two collapses are known of causal language models trained for sparse retrieval. The dying ReLU: all logits of a text
fall below 0, the vector is empty, no gradient reaches it any more (CSPLADE, arXiv 2504.10816, section 3.1). And the
sink: all texts get nearly the same vector, most often from a first token that attends to itself only and is pooled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from pyserini_llm_sparse.errors import RunError
from pyserini_llm_sparse.training.config.fields import RetrieveConfig

DEAD_SHARE = 0.5
ALIKE_COSINE = 0.99
CROWDED_SHARE = 0.5
_SIDES = ("query", "document")
_PLURALS = {"query": "queries", "document": "documents"}

_logger = logging.getLogger(__name__)


def vector_health(queries: Tensor, documents: Tensor) -> dict[str, float]:
    """Measure the vectors of a batch.

    Args:
        queries: ``[queries, dimensions]``.
        documents: ``[documents, dimensions]``.

    Returns:
        ``query_active_terms``, the mean number of weights that are not 0; ``query_cosine``, the mean cosine of two
        different vectors, 0 with fewer than two that are not empty; ``dead_queries``, the share of vectors without any
        term; and ``document_active_terms``, ``document_cosine``, ``dead_documents``.
    """
    found: dict[str, float] = {}
    with torch.no_grad():
        for side, vectors in zip(_SIDES, (queries, documents), strict=True):
            terms = (vectors != 0).sum(1)
            alive = vectors[terms > 0].float()
            found[f"{side}_active_terms"] = float(terms.float().mean()) if len(vectors) else 0.0
            found[f"{side}_cosine"] = _mean_cosine(alive)
            found[f"dead_{_PLURALS[side]}"] = 1 - len(alive) / len(vectors) if len(vectors) else 0.0
    return found


def _mean_cosine(vectors: Tensor) -> float:
    """Return the mean over pairs of different rows, from the length of the rows' sum: no matrix of all pairs."""
    count = len(vectors)
    if count < 2:
        return 0.0
    total = torch.nn.functional.normalize(vectors, dim=1).sum(0).square().sum()
    return float((total - count) / (count * (count - 1)))


class CollapseDetector:
    """Ends a run whose vectors have died or become all alike.

    A state must last for some logged steps, for one batch may be unlucky; and longer where the run has never been
    healthy, for many a model that has not been adapted starts in the sink and leaves it.

    Args:
        config: the run file, whose values the messages name.
        vocabulary_size: with it, a warning is logged where documents keep half of the vocabulary after the ramp.
        ramp_steps: step from which on the regularisers have their full weight.
        patience: logged steps in a row that a collapse must last.
        first_patience: the same where no healthy step has been seen.
    """

    def __init__(
        self,
        config: RetrieveConfig,
        vocabulary_size: int | None = None,
        ramp_steps: int = 0,
        patience: int = 3,
        first_patience: int = 10,
    ) -> None:
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.ramp_steps = ramp_steps
        self.patience = patience
        self.first_patience = first_patience
        self._lasted = {side: {"dead": 0, "alike": 0} for side in _SIDES}
        self._was_healthy = dict.fromkeys(_SIDES, False)
        self._warned = False

    def update(self, step: int, health: Mapping[str, float]) -> None:
        """Take the measurements of a logged step.

        Args:
            step: optimiser steps done.
            health: what `vector_health` returned.

        Raises:
            RunError: the vectors have collapsed; the message says what was seen and which setting to change.
        """
        for side in _SIDES:
            seen = {
                "dead": health[f"dead_{_PLURALS[side]}"] >= DEAD_SHARE,
                "alike": health[f"{side}_cosine"] >= ALIKE_COSINE,
            }
            self._was_healthy[side] |= not any(seen.values())
            patience = self.patience if self._was_healthy[side] else self.first_patience
            for state, is_seen in seen.items():
                self._lasted[side][state] = self._lasted[side][state] + 1 if is_seen else 0
                if self._lasted[side][state] >= patience:
                    raise RunError(self._message(step, side, state, health))
        crowded = self._crowded(step, health)
        if crowded and not self._warned:
            self._warned = True
            _logger.warning("step %d: %s", step, crowded)

    def _message(self, step: int, side: str, state: str, health: Mapping[str, float]) -> str:
        """Say what was seen and which setting to change."""
        steps = f"for the last {self._lasted[side][state]} logged steps"
        if state == "dead":
            share = health[f"dead_{_PLURALS[side]}"]
            what = f"the {side} vectors have died: {share:.0%} of them have no term, {DEAD_SHARE:.0%} or more {steps}"
            remedy = self._remedy_for_dead(side)
        else:
            cosine = health[f"{side}_cosine"]
            what = f"the {side} vectors are all alike: mean cosine {cosine:.4f}, {ALIKE_COSINE} or more {steps}"
            remedy = self._remedy_for_alike()
        terms = ", ".join(f"{_PLURALS[name]} {health[f'{name}_active_terms']:.0f}" for name in _SIDES)
        crowded = self._crowded(step, health)
        return f"step {step}: {what} (active terms: {terms}{f'; {crowded}' if crowded else ''}); {remedy}"

    def _remedy_for_dead(self, side: str) -> str:
        weight = getattr(self.config, f"{side}_regulariser_weight")
        lower = f"lower {side}_regulariser_weight ({weight:g}), " if weight else ""
        if side == "query" and self.config.query_encoder == "inference-free":
            return f"{lower}lower trainer.learning_rate, or keep the table as it is (query_term_weights: fixed)"
        return f"{lower}adapt the model first (train adapt), or lower trainer.learning_rate"

    def _remedy_for_alike(self) -> str:
        config = self.config
        pools_bos = config.add_bos and config.pooled_span == "all"
        if config.representation == "dense":
            pools_bos = pools_bos and config.dense_pooling != "last-token"
        bos = "leave the first token out of the pooling (pooled_span: text, or add_bos: false), " if pools_bos else ""
        return f"{bos}adapt the model first (train adapt), or lower trainer.learning_rate"

    def _crowded(self, step: int, health: Mapping[str, float]) -> str:
        """Return a warning where documents keep half of the vocabulary although the ramp is over, else nothing."""
        terms = health["document_active_terms"]
        if self.config.representation == "dense" or not self.vocabulary_size or step < self.ramp_steps:
            return ""
        if terms < CROWDED_SHARE * self.vocabulary_size:
            return ""
        return (
            f"documents keep {terms:.0f} of {self.vocabulary_size} terms after the ramp, which no index is built for: "
            "raise document_regulariser_weight"
        )

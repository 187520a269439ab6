"""The examples that a run can learn from, and what is drawn of one in an epoch: positive, negatives, their scores."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.data.examples import Example, text_key

_logger = logging.getLogger(__name__)


class Group(NamedTuple):
    """The part of an example that is drawn: a positive, then negatives, and a teacher's scores of them (or none)."""

    documents: list[str]
    scores: list[float]


def usable_examples(examples: Iterable[Example], say: bool = True, *, config: RetrieveConfig) -> Iterator[Example]:
    """Yield the examples that a run can learn from; what is left out, or has too little, is counted and said once.

    Args:
        examples: All examples.
        say: Whether the counts are logged, at the end.
        config: Says how many negatives are wanted, and what to do where a teacher's score is missing.

    Raises:
        DataError: A teacher's score is missing and not to be passed over, or no example has a negative.
    """
    unscored = without = few = pairs = full = 0
    for example in examples:
        if config.needs_scores and not _has_scores(example, config):
            if config.missing_scores == "refuse":
                raise _unscored(example, config)
            unscored += 1
            continue
        negatives = len({example.negatives[place] for place in _scored_places(example, "negative", config)})
        if config.negatives and not negatives:
            without += 1
            if not config.takes_pairs:
                continue
            pairs += 1
        elif negatives < config.negatives:
            few += 1
        full += bool(negatives)
        yield example
    if config.negatives and not full and without:
        raise DataError(
            f"train: none of {without} examples has a negative: the run draws {config.negatives} for each query; mine "
            "them with `train mine`, or set negatives: 0"
        )
    if not say:
        return
    if unscored:
        _logger.warning("train: %d examples without a teacher's score are left out (missing_scores: drop)", unscored)
    if without and not pairs:
        _logger.warning("train: %d examples without a negative are left out; `train mine` finds some", without)
    if pairs:
        _logger.warning(
            "train: %d of %d examples have no negative of their own and are contrasted with the other documents of "
            "their batch alone", pairs, pairs + full,
        )  # fmt: skip
    if few:
        _logger.warning(
            "train: %d examples have fewer than %d different negatives; each of these counts once", few,
            config.negatives,
        )  # fmt: skip


def draw(example: Example, epoch: int, config: RetrieveConfig) -> Group:
    """Draw the documents of an example for an epoch, by the run's seed and the example's own texts.

    Positives take turns from epoch to epoch. So do negatives: each epoch continues where the one before stopped in a
    shuffled circle of them, so that all are used before one comes again. With fewer than are wanted, some stand in a
    group more than once, and with none the positive stands for them; the losses count a text once. Where scores are
    needed, documents without one are not drawn.

    Raises:
        DataError: It has no negative where one is needed, or no teacher's scores.
    """
    count = config.negatives
    if config.needs_scores and not _has_scores(example, config):
        raise _unscored(example, config)
    positives, negatives = (_scored_places(example, side, config) for side in ("positive", "negative"))
    if count and not negatives and not config.takes_pairs:
        raise DataError(
            f"{example.where}: no negatives: the run draws {count} for each query; mine them with `train mine`, or "
            "set negatives: 0"
        )
    chance = random.Random(f"{config.seed} {text_key(example.query)} {text_key(example.positives[0])}")
    positive = _circle(positives, chance)[epoch % len(positives)]
    circle = _circle(negatives, chance) if count else []
    drawn = [circle[(epoch * count + step) % len(circle)] for step in range(count)] if circle else []
    fill = count - len(drawn)
    scores: list[float] = []
    if config.needs_scores:
        of_positive = example.positive_scores[positive]
        scores = [of_positive, *(example.negative_scores[place] for place in drawn), *[of_positive] * fill]
    text = example.positives[positive]
    return Group([text, *(example.negatives[place] for place in drawn), *[text] * fill], scores)


def _has_scores(example: Example, config: RetrieveConfig) -> bool:
    """Tell whether an example has the scores that the run needs: with ``drop`` at least one of each side."""
    wanted = any if config.missing_scores == "drop" else all
    sides = [(example.positives, example.positive_scores)]
    if config.negatives:
        sides.append((example.negatives, example.negative_scores))
    return all(
        not documents or (bool(scores) and wanted(not math.isnan(score) for score in scores))
        for documents, scores in sides
    )


def _scored_places(example: Example, side: str, config: RetrieveConfig) -> list[int]:
    """Return the places of the documents of a side that can be drawn."""
    documents, scores = getattr(example, f"{side}s"), getattr(example, f"{side}_scores")
    if not config.needs_scores:
        return list(range(len(documents)))
    return [place for place, score in enumerate(scores) if not math.isnan(score)]


def _unscored(example: Example, config: RetrieveConfig) -> DataError:
    sides = [example.positive_scores, example.negative_scores if config.negatives else ()]
    found = sum(not math.isnan(score) for scores in sides for score in scores)
    documents = len(example.positives) + (len(example.negatives) if config.negatives else 0)
    what = f"{found} of {documents} documents have a teacher's score" if found else "no teacher scores"
    why = f"objective {config.objective}" if config.uses_teacher else "false_negative_margin"
    rest = "objective: contrastive" if config.uses_teacher else "leave that out"
    return DataError(
        f"{example.where}: {what}: {why} needs them; make them with `train score`, or set missing_scores: drop, or "
        f"{rest}"
    )


def _circle(places: Sequence[int], chance: random.Random) -> list[int]:
    circle = list(places)
    chance.shuffle(circle)
    return circle

"""Teacher scores: each example's query with its positives and negatives, scored by a model and written again."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.training.config.fields import ScoreConfig
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples, source_fingerprints
from pyserini_llm_sparse.training.preparation.chunked_output import ChunkedOutput, Progress, require_new_output
from pyserini_llm_sparse.training.preparation.score_files import FileTeacher
from pyserini_llm_sparse.training.preparation.teachers import each_teacher, load_teacher, score_file

# Examples scored together, which is what an interruption can lose. A text is embedded once for all of them, so the more
# the better where texts are embedded; a cross-encoder has nothing to share.
CHUNKS = {"cross-encoder": 256, "sentence-transformers": 4096, "sparse": 4096}
DECIMALS = 6


@dataclass(frozen=True)
class ScoreReport:
    """The outcome of `score`.

    Attributes:
        output: The file.
        examples: Examples read and written.
        scores: Scores written, of this run and of those that it continued.
        scored: Scores computed in this run.
        seconds: Time that computing them took, the loading of the teacher left out.
        left_out: Documents without a score, which a file of scores may lack, and are not written.
        without_positive: Examples that are not written, for none of their positives has a score.
    """

    output: Path
    examples: int
    scores: int
    scored: int
    seconds: float
    left_out: int = 0
    without_positive: int = 0

    def summary(self) -> str:
        """Return the report in a line."""
        text = (
            f"{self.output}: {self.examples:,} examples with {self.scores:,} scores, {self.scored:,} of them computed "
            f"now in {self.seconds:.0f} s"
        )
        if self.left_out:
            text += (
                f"; {self.left_out:,} documents have no score and are left out, with {self.without_positive:,} "
                "examples without a positive"
            )
        return text


def score(config: ScoreConfig, *, overwrite: bool = False, progress: Progress | None = None) -> ScoreReport:
    """Write the examples again, in their order, with a teacher's score for each positive and negative.

    Scores that they had before are replaced. An interrupted run that is started again goes on where it was, to the
    same bytes; see `ChunkedOutput`.

    Args:
        config: The phase's settings; ``output`` is a file ``*.jsonl`` or ``*.jsonl.gz`` in Tevatron's format.
        overwrite: Whether the output may be replaced.
        progress: Told how many more examples are done, and whether they were done in this run.

    Raises:
        UsageError: The output exists, or the settings contradict each other.
        DataError: An example is broken, there is none, or a score is not finite.
        PrerequisiteError: sentence-transformers is needed and not installed.
        ResourceError: The teacher cannot be loaded.
        LlmSparseError: What the readers raise.
    """
    require_new_output(config.output, overwrite)
    progress = progress or (lambda count, now: None)
    scorers = [_scorer(one) for one in each_teacher(config)]
    started = time.monotonic()
    scored, chunks = 0, 0
    with ChunkedOutput(config.output, _identity(config), overwrite) as output:
        for chunk, examples in enumerate(_chunks(config)):
            chunks = chunk + 1
            if output.done(chunk):
                progress(len(examples), False)
                continue
            lines, counts = _scored(examples, scorers, config)
            output.write(chunk, b"".join(lines), counts)
            scored += counts["scores"]
            progress(len(examples), True)
        if not chunks:
            raise DataError("train: no examples: the sources are empty; check the paths")
        counts = output.finish(chunks)
    seconds, names = time.monotonic() - started, ("examples", "scores", "left_out", "without_positive")
    return ScoreReport(config.output, scored=scored, seconds=seconds, **{name: counts[name] for name in names})


def _identity(config: ScoreConfig) -> dict[str, Any]:
    """All that the output depends on; the seed is not, for nothing is drawn."""
    return {
        "phase": "score",
        **config.model_dump(mode="json", exclude={"output", "seed"}),
        "train": source_fingerprints(config.train),
        "files": [file_sha256(path) for one in each_teacher(config) if (path := score_file(one)) is not None],
    }


def _chunks(config: ScoreConfig) -> Iterator[list[Example]]:
    examples = itertools.chain.from_iterable(map(read_examples, config.train))
    kinds = [one.kind for one in each_teacher(config) if score_file(one) is None]
    size = min([CHUNKS[kind] for kind in kinds], default=max(CHUNKS.values()))
    while chunk := list(itertools.islice(examples, size)):
        yield chunk


def _scorer(config: ScoreConfig) -> Callable[[Sequence[Example]], NDArray[np.float64]]:
    """Return what gives the scores ``[documents]`` of examples' positives and negatives; NaN where there are none."""
    if (path := score_file(config)) is not None:
        return FileTeacher(path).scores
    teacher = load_teacher(config)

    def scores(examples: Sequence[Example]) -> NDArray[np.float64]:
        queries: list[str] = []
        documents: list[str] = []
        for example in examples:
            own = (*example.positives, *example.negatives)
            queries += [example.query] * len(own)
            documents += own
        found = teacher.scores(queries, documents)
        if not np.isfinite(found).all():
            place = int(np.flatnonzero(~np.isfinite(found))[0])
            raise DataError(
                f"{config.name}: the score of query {queries[place][:40]!r} is not finite: the teacher overflows; use "
                "another one"
            )
        return found

    return scores


def _scored(
    examples: Sequence[Example], scorers: Sequence[Callable[[Sequence[Example]], NDArray[np.float64]]],
    config: ScoreConfig,
) -> tuple[list[bytes], Counter[str]]:  # fmt: skip
    """Return the examples' lines with scores, and counts of what they hold."""
    found = np.stack([scorer(examples) for scorer in scorers])
    lines: list[bytes] = []
    counts = Counter(dict.fromkeys(("examples", "scores", "left_out", "without_positive"), 0))
    start = 0
    for example in examples:
        stop = start + len(example.positives) + len(example.negatives)
        scores = np.round(averaged(found[:, start:stop]) * config.scale, DECIMALS)
        start = stop
        has_score = np.isfinite(scores)
        counts["left_out"] += int((~has_score).sum())
        if not has_score[: len(example.positives)].any():
            counts["without_positive"] += 1
            continue
        lines.append(example_line(_with_scores(example, scores.tolist(), has_score.tolist())))
        counts["examples"] += 1
        counts["scores"] += int(has_score.sum())
    return lines, counts


def averaged(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of several teachers' scores of a query's documents, each brought to 0 to 1; one's as they are.

    Min-max over the query's documents, as Geng et al. (2411.04403) average teachers of different scales. A document
    that one of them has not scored has no mean.

    Args:
        scores: ``[teachers, documents]``, NaN where there is none.

    Returns:
        ``[documents]``, NaN where there is none.
    """
    if len(scores) == 1:
        return scores[0]
    known = np.isfinite(scores).all(0)
    means = np.full(scores.shape[1], np.nan)
    if known.any():
        least, most = scores[:, known].min(1, keepdims=True), scores[:, known].max(1, keepdims=True)
        means[known] = ((scores[:, known] - least) / np.where(most > least, most - least, 1.0)).mean(0)
    return means


def _with_scores(example: Example, scores: Sequence[float], has_score: Sequence[bool]) -> Example:
    """Return an example of the documents that have a score, with these."""
    number = len(example.positives)
    fields: dict[str, Any] = {}
    for side, place in (("positive", slice(number)), ("negative", slice(number, None))):
        kept = has_score[place]
        fields[f"{side}s"] = tuple(itertools.compress(getattr(example, f"{side}s"), kept))
        fields[f"{side}_ids"] = tuple(itertools.compress(getattr(example, f"{side}_ids"), kept))
        fields[f"{side}_scores"] = tuple(itertools.compress(scores[place], kept))
    return replace(example, **fields)

"""Teacher scores: each example's query with its positives and negatives, scored by a model and written again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.training.config.fields import ScoreConfig
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples, source_fingerprints
from pyserini_llm_sparse.training.preparation.chunked_output import ChunkedOutput, Progress, require_new_output
from pyserini_llm_sparse.training.preparation.teachers import Teacher, load_teacher

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
    """

    output: Path
    examples: int
    scores: int
    scored: int
    seconds: float

    def summary(self) -> str:
        """Return the report in a line."""
        return (
            f"{self.output}: {self.examples:,} examples with {self.scores:,} scores, {self.scored:,} of them computed "
            f"now in {self.seconds:.0f} s"
        )


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
    teacher = load_teacher(config)
    started = time.monotonic()
    scored, chunks = 0, 0
    with ChunkedOutput(config.output, _identity(config), overwrite) as output:
        for chunk, examples in enumerate(_chunks(config)):
            chunks = chunk + 1
            if output.done(chunk):
                progress(len(examples), False)
                continue
            lines = _scored(examples, teacher, config)
            count = sum(len(example.positives) + len(example.negatives) for example in examples)
            output.write(chunk, b"".join(lines), {"examples": len(examples), "scores": count})
            scored += count
            progress(len(examples), True)
        if not chunks:
            raise DataError("train: no examples: the sources are empty; check the paths")
        counts = output.finish(chunks)
    return ScoreReport(config.output, counts["examples"], counts["scores"], scored, time.monotonic() - started)


def _identity(config: ScoreConfig) -> dict[str, Any]:
    """All that the output depends on; the seed is not, for nothing is drawn."""
    return {
        "phase": "score",
        **config.model_dump(mode="json", exclude={"output", "seed"}),
        "train": source_fingerprints(config.train),
    }


def _chunks(config: ScoreConfig) -> Iterator[list[Example]]:
    examples = itertools.chain.from_iterable(map(read_examples, config.train))
    while chunk := list(itertools.islice(examples, CHUNKS[config.kind])):
        yield chunk


def _scored(examples: Sequence[Example], teacher: Teacher, config: ScoreConfig) -> Iterator[bytes]:
    """Yield the examples' lines with scores."""
    queries: list[str] = []
    documents: list[str] = []
    for example in examples:
        own = (*example.positives, *example.negatives)
        queries += [example.query] * len(own)
        documents += own
    scores = teacher.scores(queries, documents) * config.scale
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise DataError(
            f"{config.teacher}: the score of query {queries[place][:40]!r} is not finite: the teacher overflows; use "
            "another one"
        )
    values = iter(np.round(scores, DECIMALS).tolist())
    for example in examples:
        yield example_line(
            replace(
                example,
                positive_scores=tuple(itertools.islice(values, len(example.positives))),
                negative_scores=tuple(itertools.islice(values, len(example.negatives))),
            )
        )

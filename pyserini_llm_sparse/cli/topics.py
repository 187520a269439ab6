"""Topics for the commands that take queries, with the names that Pyserini knows, and their encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyserini_llm_sparse.cli.console import progress_bar, without_java_warnings
from pyserini_llm_sparse.files.topics import Topic, read_topics


def load_topics(name: str) -> list[Topic]:
    """Return the topics of a file, a folder, ``irds:<dataset id>``, or by the name that Pyserini has for them.

    Raises:
        LlmSparseError: As `read_topics`; ResourceError if Pyserini cannot give them.
    """
    return read_topics(name, _named)


def _named(name: str) -> dict[str, str]:
    from pyserini_llm_sparse.indexing.lucene.named import named_topics

    with without_java_warnings():
        return named_topics(name)


def encode_topics(encoder: Any, topics: Sequence[Topic], batch_size: int) -> list[dict[str, int]]:
    """Return the impacts of each query; its length in characters, not its place, decides whose neighbour it is."""
    order = sorted(range(len(topics)), key=lambda number: len(topics[number].text))
    impacts: list[dict[str, int]] = [{}] * len(topics)
    step = batch_size * 8
    with progress_bar(lambda: len(topics), "queries") as progress:
        for start in range(0, len(order), step):
            numbers = order[start : start + step]
            texts = [topics[number].text for number in numbers]
            found = encoder.query_impacts(texts, batch_size=batch_size)
            for number, vector in zip(numbers, found, strict=True):
                impacts[number] = vector
            progress(len(numbers), True)
    return impacts

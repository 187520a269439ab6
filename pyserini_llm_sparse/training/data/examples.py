"""A training example, a query with its relevant documents and hard negatives, and the JSON line that holds it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import orjson

from pyserini_llm_sparse.errors import DataError, at


@dataclass(frozen=True, slots=True)
class Example:
    """A query, documents that are relevant to it, and documents that look so and are not.

    Readers strip all texts of outer white space and leave none empty.

    Attributes:
        query: The query's text.
        positives: Relevant documents, at least one; title and text are joined by a space.
        negatives: Documents taken as not relevant.
        positive_scores: A teacher's scores of the positives; empty, or one each, not a number where one is missing.
        negative_scores: The same for the negatives.
        query_id: The query's id where the source has one.
        positive_ids: Ids of the positives; empty, or one each.
        negative_ids: The same for the negatives.
        source: The file it came from, for messages; not compared.
        line: Its line, from 1; not compared.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()
    query_id: str | None = None
    positive_ids: tuple[str, ...] = ()
    negative_ids: tuple[str, ...] = ()
    source: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        """Refuse what no part of training could make sense of.

        Raises:
            DataError: There is no positive, or scores or ids are not as many as the documents, or infinite.
        """
        if not self.positives:
            raise self._wrong("no positive", "nothing is relevant to the query", "give it at least one")
        for side, documents in (("positive", self.positives), ("negative", self.negatives)):
            for kind in ("scores", "ids"):
                given = getattr(self, f"{side}_{kind}")
                if given and len(given) != len(documents):
                    raise self._wrong(
                        f"{len(given)} {kind} for {len(documents)} {side}s", "they belong together one to one",
                        "give each its own, or none",
                    )  # fmt: skip
        if any(map(math.isinf, (*self.positive_scores, *self.negative_scores))):
            raise self._wrong("a score is infinite", "no loss can be computed from it", "correct or remove it")

    @property
    def where(self) -> str:
        """The place that it came from, as messages name it."""
        return at(self.source, self.line or None) if self.source else f"example {self.query[:40]!r}"

    def _wrong(self, what: str, why: str, remedy: str) -> DataError:
        return DataError(f"{self.where}: {what}: {why}; {remedy}")


def example_line(example: Example) -> bytes:
    """Return an example as one JSON line in Tevatron's format, which `training.data.sources.read_examples` reads back.

    It has ``query_id`` (if there is one), ``query``, ``positive_passages`` and ``negative_passages``, each a list of
    ``docid`` (if known), ``title`` (empty, for it has become part of the text), ``text`` and ``score`` (if known).
    """
    record: dict[str, Any] = {} if example.query_id is None else {"query_id": example.query_id}
    record["query"] = example.query
    for side in ("positive", "negative"):
        texts = getattr(example, f"{side}s")
        ids, scores = getattr(example, f"{side}_ids"), getattr(example, f"{side}_scores")
        passages: list[dict[str, Any]] = [{"title": "", "text": text} for text in texts]
        for passage, identifier in zip(passages, ids, strict=False):
            passage["docid"] = identifier
        for passage, score in zip(passages, scores, strict=False):
            passage["score"] = score
        record[f"{side}_passages"] = passages
    return orjson.dumps(record) + b"\n"


def text_key(text: str) -> int:
    """Return a 63-bit hash of a text: the same in each process and run."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

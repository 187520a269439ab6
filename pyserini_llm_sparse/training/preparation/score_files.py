"""A teacher's scores from a file: a run of TREC, such as Rank-DistiLLM's, or JSON lines of pairs or of examples.

A line of JSON has a query id (``query_id`` or ``qid``), a document id (``docid``, ``doc_id`` or ``pid``) and ``score``;
or it is a training example with scores, in any form that `read_examples` takes, whose texts are then what counts.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError, at
from pyserini_llm_sparse.files.corpus import json_object
from pyserini_llm_sparse.files.lines import bare_suffix, read_lines
from pyserini_llm_sparse.files.records import RecordProblem
from pyserini_llm_sparse.files.trec import read_run
from pyserini_llm_sparse.training.data.examples import Example
from pyserini_llm_sparse.training.data.source_formats import is_example
from pyserini_llm_sparse.training.data.sources import read_examples

JSON_SUFFIXES = (".jsonl", ".json")
QUERY_IDS = ("query_id", "qid")
DOCUMENT_IDS = ("docid", "doc_id", "pid")


class FileTeacher:
    """The scores of a file, in a database that goes when the process ends; memory does not grow with them.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ResourceError: It cannot be read.
            DataError: A line is neither a score nor an example with scores, or there is none.
        """
        self.path = path
        # An empty name: SQLite's own temporary file, which nobody else sees.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA temp_store = FILE; BEGIN;")
        self._database.execute("CREATE TABLE scores (pair BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
        self._by_text = bare_suffix(path) in JSON_SUFFIXES and self._holds_examples()
        self._database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", self._pairs())
        if self._database.execute("SELECT 1 FROM scores LIMIT 1").fetchone() is None:
            raise DataError(f"{path}: no scores: it holds no line of them; check the path")

    def scores(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Return the scores ``[documents]`` of the examples' positives and negatives, NaN where the file has none.

        Raises:
            DataError: The file names queries and documents by ids that an example does not have.
        """
        found: list[float] = []
        for example in examples:
            for name in self._names(example):
                row = self._database.execute("SELECT score FROM scores WHERE pair = ?", (name,)).fetchone()
                found.append(np.nan if row is None else row[0])
        return np.array(found)

    def _names(self, example: Example) -> list[bytes]:
        if self._by_text:
            return [_pair(example.query, text) for text in (*example.positives, *example.negatives)]
        ids = (*example.positive_ids, *example.negative_ids)
        if example.query_id is None or len(ids) != len(example.positives) + len(example.negatives):
            raise DataError(
                f"{example.where}: no ids of its query and documents, by which {self.path} names what is scored; give "
                "examples with ids, or scores with texts"
            )
        return [_pair(example.query_id, identifier) for identifier in ids]

    def _pairs(self) -> Iterator[tuple[bytes, float]]:
        if bare_suffix(self.path) not in JSON_SUFFIXES:
            yield from ((_pair(line.query, line.document), line.score) for line in read_run(self.path))
        elif self._by_text:
            for example in read_examples(str(self.path)):
                scores = (*example.positive_scores, *example.negative_scores)
                texts = (*example.positives, *example.negatives)
                if len(scores) != len(texts):
                    raise DataError(f"{example.where}: no scores: a teacher's are expected; score the examples first")
                yield from ((_pair(example.query, text), score) for text, score in zip(texts, scores, strict=True))
        else:
            for number, record in self._records():
                query, document = (next((record[key] for key in keys if key in record), None)
                                   for keys in (QUERY_IDS, DOCUMENT_IDS))  # fmt: skip
                score = record.get("score")
                is_number = isinstance(score, int | float) and not isinstance(score, bool)
                if query is None or document is None or not is_number:
                    raise DataError(
                        f"{at(self.path, number)}: no score: {QUERY_IDS[0]}, {DOCUMENT_IDS[0]} and a number as score "
                        "are expected, or an example with scores; correct the line"
                    )
                yield _pair(str(query), str(document)), float(score or 0.0)

    def _holds_examples(self) -> bool:
        first = next(self._records(), None)
        return first is not None and is_example(first[1])

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in read_lines(self.path):
            if line is None or line.strip():
                try:
                    yield number, json_object(line or b"")
                except RecordProblem as problem:
                    where = at(self.path, number)
                    raise DataError(f"{where}: {problem.what}: {problem.why}; {problem.remedy}") from problem


def _pair(query: str, document: str) -> bytes:
    name = f"{len(query)} {query}{document}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=16).digest()

"""The lookup tables of mining, on disk: where a document's text lies, and which documents are relevant to a query."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson

from pyserini_llm_sparse.errors import DataError, at
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.records import RecordProblem, Rejected, checked_id
from pyserini_llm_sparse.training.data.examples import Example
from pyserini_llm_sparse.training.preparation.chunked_output import UNFINISHED

_STORE = "store"
_TABLES = """
CREATE TABLE documents (id TEXT PRIMARY KEY, text_key BLOB, offset INTEGER) WITHOUT ROWID;
CREATE INDEX documents_by_text ON documents (text_key);
CREATE TABLE relevant (query_key BLOB, id TEXT, PRIMARY KEY (query_key, id)) WITHOUT ROWID;
CREATE TABLE counts (examples INTEGER, documents INTEGER, relevant INTEGER);
"""


def text_key(text: str) -> bytes:
    """Return what texts have in common that differ in white space or case only."""
    return hashlib.blake2b(" ".join(text.split()).casefold().encode(), digest_size=16).digest()


class MiningStore:
    """The documents that are searched, as a file for the indexer, and a database of ids, keys of texts and places.

    Memory does not grow with the corpus or the examples.

    Attributes:
        folder: Folder of the JSONL file of ``id`` and ``contents``, which holds nothing else.
        examples: Number of examples.
        documents: Number of documents.
        relevant: Number of pairs of a query's text and a document of the corpus that is relevant to it.
    """

    def __init__(self, work: Path) -> None:
        """Open what `build` made; see `is_built`."""
        self.folder = work / _STORE / "documents"
        self._database = sqlite3.connect(work / _STORE / "store.sqlite")
        self.examples, self.documents, self.relevant = self._database.execute("SELECT * FROM counts").fetchone()
        self._texts = (self.folder / "documents.jsonl").open("rb")

    def __enter__(self) -> MiningStore:
        return self

    def __exit__(self, *details: object) -> None:
        self._texts.close()
        self._database.close()

    @staticmethod
    def is_built(work: Path) -> bool:
        """Tell whether there is a whole store in a folder: it gets its name when it is finished."""
        return (work / _STORE).is_dir()

    @staticmethod
    def build(work: Path, examples: Iterable[Example], again: Iterable[Example], corpus: str | None) -> None:
        """Read the corpus and the examples into a folder.

        Args:
            work: The folder.
            examples: The examples.
            again: The same examples, to be read a second time.
            corpus: What is searched; None for the distinct positives of the examples.

        Raises:
            DataError: There is no example or no document, a record is broken, or an id stands there twice.
        """
        unfinished = work / (UNFINISHED + _STORE)
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "documents").mkdir(parents=True)
        database = sqlite3.connect(unfinished / "store.sqlite", isolation_level=None)
        try:
            # Without a journal a crash spoils the file; but then it has not got its name, and is made anew.
            database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES} BEGIN;")
            listed = _corpus_documents(corpus) if corpus is not None else _positives(examples, database)
            documents = _write_documents(unfinished / "documents" / "documents.jsonl", listed, database)
            count, relevant = _write_relevant(again, database)
            if not count:
                raise DataError("train: no examples: the sources are empty; check the paths")
            if not documents:
                raise DataError(f"{corpus}: no documents: the corpus is empty; check the path")
            database.execute("INSERT INTO counts VALUES (?, ?, ?)", (count, documents, relevant))
            database.execute("COMMIT")
        finally:
            database.close()
        with (unfinished / "store.sqlite").open("rb+") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(work / _STORE)

    def relevant_ids(self, query: str) -> set[str]:
        """Return the ids of all documents that some example with this query's text has as positives."""
        rows = self._database.execute("SELECT id FROM relevant WHERE query_key = ?", (text_key(query),))
        return {identifier for (identifier,) in rows}

    def relevant_texts(self, query: str) -> set[bytes]:
        """Return the keys of their texts."""
        rows = self._database.execute(
            "SELECT text_key FROM relevant JOIN documents USING (id) WHERE query_key = ?", (text_key(query),)
        )
        return {key for (key,) in rows}

    def text_of(self, identifier: str) -> str | None:
        """Return the text of a document; None if there is none of this id."""
        row = self._database.execute("SELECT offset FROM documents WHERE id = ?", (identifier,)).fetchone()
        if row is None:
            return None
        self._texts.seek(row[0])
        return str(orjson.loads(self._texts.readline())["contents"])


def _corpus_documents(corpus: str) -> Iterator[tuple[str, str, str]]:
    """Yield id, text and place of each document of a corpus."""
    for record in read_corpus(corpus):
        if isinstance(record, Rejected):
            raise record.error()
        yield record.id, record.text, at(record.source, record.line)


def _positives(examples: Iterable[Example], database: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """Yield each distinct positive, under its own id where that can be one and is not another text's."""
    for example in examples:
        ids: Sequence[str | None] = example.positive_ids or [None] * len(example.positives)
        for given, text in zip(ids, example.positives, strict=True):
            key = text_key(text)
            if not _found(database, "SELECT 1 FROM documents WHERE text_key = ?", key):
                named = given is not None and _fit(given)
                if not named or _found(database, "SELECT 1 FROM documents WHERE id = ?", given):
                    given = f"text-{key.hex()}"
                yield str(given), text, example.where


def _fit(identifier: str) -> bool:
    try:
        checked_id(identifier)
    except RecordProblem:
        return False
    return True


def _found(database: sqlite3.Connection, query: str, *values: object) -> bool:
    return database.execute(query, values).fetchone() is not None


def _write_documents(path: Path, listed: Iterable[tuple[str, str, str]], database: sqlite3.Connection) -> int:
    """Write the documents as the indexer reads them, and note where each one lies. Returns their number."""
    count = offset = 0
    with atomic_file(path, path.parent.parent) as stream:
        for identifier, text, where in listed:
            line = orjson.dumps({"id": identifier, "contents": text}) + b"\n"
            try:
                database.execute("INSERT INTO documents VALUES (?, ?, ?)", (identifier, text_key(text), offset))
            except sqlite3.IntegrityError as error:
                raise DataError(
                    f"{where}: id {identifier!r}: another document of the corpus has it, too; give each its own"
                ) from error
            stream.write(line)
            offset += len(line)
            count += 1
    return count


def _write_relevant(examples: Iterable[Example], database: sqlite3.Connection) -> tuple[int, int]:
    """Note the positives of each query's text, by id and by equal text. Returns the numbers of examples and pairs."""
    count = 0
    for example in examples:
        query = text_key(example.query)
        for text in example.positives:
            database.execute(
                "INSERT OR IGNORE INTO relevant SELECT ?, id FROM documents WHERE text_key = ?", (query, text_key(text))
            )
        for identifier in example.positive_ids:
            database.execute(
                "INSERT OR IGNORE INTO relevant SELECT ?, id FROM documents WHERE id = ?", (query, identifier)
            )
        count += 1
    return count, database.execute("SELECT count(*) FROM relevant").fetchone()[0]

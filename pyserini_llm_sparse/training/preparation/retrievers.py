"""The ways to find documents for mining: BM25 or an encoder over an index, made here or found, or a run file."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.files.trec import read_run
from pyserini_llm_sparse.indexing.lucene import Hit, LuceneIndex, index, read_index_spec, require_index_spec
from pyserini_llm_sparse.indexing.lucene.bm25 import BM25Index, index_texts
from pyserini_llm_sparse.indexing.lucene.named import named_index
from pyserini_llm_sparse.indexing.vectors import encode_corpus
from pyserini_llm_sparse.training.config.fields import MineConfig
from pyserini_llm_sparse.training.data.examples import Example
from pyserini_llm_sparse.training.preparation.chunked_output import UNFINISHED
from pyserini_llm_sparse.training.preparation.mining_store import MiningStore

if TYPE_CHECKING:
    from pyserini_llm_sparse.encoder import SparseEncoder

BM25 = "bm25"
_RUN = "run.sqlite"

_logger = logging.getLogger(__name__)


class Retriever(Protocol):
    """Finds documents for many examples at once."""

    def search(self, examples: Mapping[str, Example], hits: int) -> Mapping[str, Sequence[Hit]]:
        """Return the best hits of each example by its name here; one that finds nothing may be missing."""

    def text(self, identifier: str) -> str | None:
        """Return the text of a document that was found; None where it is not kept."""


@dataclass
class BM25Retriever:
    """BM25 over an index of texts."""

    index: BM25Index
    threads: int

    def search(self, examples: Mapping[str, Example], hits: int) -> Mapping[str, Sequence[Hit]]:
        """Search for the queries' words."""
        queries = {name: example.query for name, example in examples.items()}
        return self.index.search_batch(queries, hits, self.threads)

    def text(self, identifier: str) -> str | None:
        """Return what the index keeps of a document."""
        return self.index.text(identifier)


@dataclass
class EncoderRetriever:
    """An encoder's queries over an index of impacts."""

    index: LuceneIndex
    encoder: SparseEncoder
    threads: int

    def search(self, examples: Mapping[str, Example], hits: int) -> Mapping[str, Sequence[Hit]]:
        """Encode and search for the queries."""
        impacts = self.encoder.query_impacts([example.query for example in examples.values()])
        vectors = {name: vector for name, vector in zip(examples, impacts, strict=True) if vector}
        return self.index.search_batch(vectors, hits, self.threads) if vectors else {}

    def text(self, identifier: str) -> str | None:
        """Return what the index keeps of a document."""
        return self.index.text(identifier)


class RunRetriever:
    """The rankings of a run file, by the examples' query ids, in a database in the folder of the work."""

    def __init__(self, run: str, work: Path, texts: BM25Index | None) -> None:
        """Read a run, unless an interrupted run of ours has.

        Args:
            run: A file in TREC's columns.
            work: Where the database is.
            texts: The index that keeps the documents' texts, if one does.

        Raises:
            DataError: A line is none of a run.
        """
        self._run, self._texts = run, texts
        if not (work / _RUN).is_file():
            unfinished = work / (UNFINISHED + _RUN)
            unfinished.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(unfinished)) as database, database:
                database.executescript("PRAGMA journal_mode = OFF; CREATE TABLE hits (query, document, rank, score);")
                database.executemany("INSERT INTO hits VALUES (?, ?, ?, ?)", read_run(Path(run)))
                database.execute("CREATE INDEX by_query ON hits (query)")
            unfinished.replace(work / _RUN)
        self._database = sqlite3.connect(work / _RUN)

    def search(self, examples: Mapping[str, Example], hits: int) -> Mapping[str, Sequence[Hit]]:
        """Look the rankings up: by score, equal ones by rank.

        Raises:
            DataError: An example has no query id.
        """
        return {name: self._ranking(example, hits) for name, example in examples.items()}

    def text(self, identifier: str) -> str | None:
        """Return what the index beside the run keeps of a document."""
        return self._texts.text(identifier) if self._texts is not None else None

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _ranking(self, example: Example, hits: int) -> list[Hit]:
        if example.query_id is None:
            raise DataError(
                f"{example.where}: no query id: {self._run} names queries by id; give the examples theirs, or search "
                "with encoder"
            )
        rows = self._database.execute(
            "SELECT document, score FROM hits WHERE query = ? ORDER BY score DESC, rank, rowid LIMIT ?",
            (example.query_id, hits),
        )
        return [Hit(document, score) for document, score in rows]


def existing_index(config: MineConfig) -> Path | None:
    """Return the folder of the index that a run names, which Pyserini may have to download; None if it makes its own.

    Raises:
        ResourceError: There is no such folder, and Pyserini knows no index of this name.
        UsageError: It holds impacts, and no encoder is named.
    """
    if config.index is None:
        return None
    folder = Path(config.index) if Path(config.index).is_dir() else named_index(config.index)
    if config.encoder == BM25 and config.run is None and read_index_spec(folder) is not None:
        raise UsageError(f"index: {config.index}: holds an encoder's impacts, no words for BM25; name the encoder")
    return folder


@contextlib.contextmanager
def opened(
    config: MineConfig, encoder: SparseEncoder | None, work: Path, store: MiningStore, folder: Path | None
) -> Iterator[Retriever]:
    """Open what a run searches; an index of the documents is made unless that is done already.

    Args:
        config: The settings of the phase.
        encoder: The encoder, None for BM25.
        work: Where an index is made.
        store: The documents.
        folder: The index that is there already; see `existing_index`.
    """
    with contextlib.ExitStack() as stack:
        if config.run is not None:
            texts = None if folder is None else stack.enter_context(BM25Index(folder))
            yield stack.enter_context(contextlib.closing(RunRetriever(config.run, work, texts)))
            return
        if folder is None:
            folder = _made(config, encoder, work, store)
        elif encoder is not None:
            require_index_spec(folder, encoder.spec, config.encoder)
        if encoder is None:
            yield BM25Retriever(stack.enter_context(BM25Index(folder)), config.threads)
        else:
            yield EncoderRetriever(stack.enter_context(LuceneIndex(folder)), encoder, config.threads)


def _made(config: MineConfig, encoder: SparseEncoder | None, work: Path, store: MiningStore) -> Path:
    path, done, vectors = work / "index", work / "index.done", work / "vectors"
    if not done.exists():
        _logger.info("%s: indexing %d documents", config.output, store.documents)
        if encoder is None:
            index_texts(store.folder, path, threads=config.threads, count=store.documents)
        else:
            encode_corpus(encoder, store.folder, vectors)
            index(vectors, path, threads=config.threads)
        done.touch()
        shutil.rmtree(vectors, ignore_errors=True)
    return path

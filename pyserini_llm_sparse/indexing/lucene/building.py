"""The building of an impact index with Pyserini's indexer, and the check that nothing was lost on the way."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from pyserini_llm_sparse.errors import DataError, ResourceError, RunError
from pyserini_llm_sparse.files.walk import files_below
from pyserini_llm_sparse.indexing.lucene.reading import LuceneIndex
from pyserini_llm_sparse.modelling.names import SPEC_FILE
from pyserini_llm_sparse.system import last_line, own_environment, pyserini_command


@dataclass(frozen=True)
class IndexReport:
    """What `index` did and found.

    Attributes:
        encoded: Documents in the vectors.
        empty: Those without a single term; Lucene has nothing to index of them.
        indexed: Documents in the index.
    """

    encoded: int
    empty: int
    indexed: int


def index(
    vectors: str | Path,
    index: str | Path,
    *,
    threads: int = 1,
    store_raw: bool = False,
    store_vectors: bool = False,
    log: str | Path | None = None,
) -> IndexReport:
    """Run Pyserini's indexer over a folder of vectors, then check that each document is in the index exactly once.

    The indexer itself loses malformed input silently and ends with exit code 0, hence the check.

    Args:
        vectors: Folder of JSONL files as ``pyserini.encode`` writes them; its spec lies beside it.
        index: The index directory, replaced if it is an index.
        threads: Indexing threads.
        store_raw: Whether the index keeps the JSON of each document.
        store_vectors: Whether it keeps term vectors.
        log: File for what the indexer prints; None to drop it unless it fails.

    Raises:
        ResourceError: The folder is not there or holds no file.
        DataError: A line of the vectors is broken, or an id stands there twice.
        RunError: The indexer failed, or documents are missing from the index.
    """
    encoded, empty = _encoded_ids(Path(vectors))
    arguments = [
        "--collection", "JsonVectorCollection", "--input", str(vectors), "--index", str(index),
        "--threads", str(threads), "--impact", "--pretokenized",
        *(["--storeRaw"] if store_raw else []), *(["--storeDocvectors"] if store_vectors else []),
    ]  # fmt: skip
    run_indexer(arguments, index, log)
    with LuceneIndex(index) as opened:
        indexed = _require_same_documents(opened, encoded, empty)
    return IndexReport(encoded=indexed + len(empty), empty=len(empty), indexed=indexed)


def run_indexer(arguments: Sequence[str], index: str | Path, log: str | Path | None) -> None:
    """Run ``pyserini.index.lucene`` in a process of its own.

    Args:
        arguments: Its arguments, but for the generator.
        index: The index directory, for the message.
        log: File for what it prints; None to drop it unless it fails.

    Raises:
        RunError: It failed.
    """
    command = pyserini_command("pyserini.index.lucene", "--generator", "DefaultLuceneDocumentGenerator", *arguments)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=own_environment()
    )
    if log is not None:
        Path(log).write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        raise RunError(
            f"{index}: pyserini.index.lucene ended with exit code {done.returncode}: {last_line(done.stdout)}"
        )


def _encoded_ids(folder: Path) -> tuple[set[str], set[str]]:
    """The ids in a folder of vectors, and those among them whose vector is empty."""
    files = [path for path in files_below(folder) if not path.name.endswith(SPEC_FILE)]
    if not files:
        raise ResourceError(f"{folder}: no vectors to index: the folder is empty or missing; encode a corpus first")
    encoded: set[str] = set()
    empty: set[str] = set()
    for path in files:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    record = orjson.loads(line)
                    name, vector = str(record["id"]), record["vector"]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{path}:{number}: not a vector: {error!r}; encode the corpus again") from error
                if name in encoded:
                    raise DataError(f"{path}:{number}: document {name!r} stands here twice; remove one of them")
                encoded.add(name)
                if not vector:
                    empty.add(name)
    return encoded, empty


def _require_same_documents(opened: LuceneIndex, encoded: set[str], empty: set[str]) -> int:
    """Check the ids of an index against those that were encoded, taking found ones out of that set; count them."""
    indexed = 0
    twice, strangers = [], []
    for name, count in opened.document_ids():
        indexed += count
        if count > 1:
            twice.append(name)
        if name in encoded and name not in empty:
            encoded.remove(name)
        else:
            strangers.append(name)
    missing = sorted(encoded - empty)
    for names, what in ((missing, "missing from"), (twice, "more than once in"), (strangers, "unexpectedly in")):
        if names:
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise RunError(
                f"{opened.path}: {len(names)} documents are {what} the index: {some}; index the vectors again"
            )
    return indexed

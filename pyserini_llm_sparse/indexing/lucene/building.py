"""The building of an impact index with Pyserini's indexer, and the check that nothing was lost on the way."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyserini_llm_sparse.children import child
from pyserini_llm_sparse.errors import RunError
from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.files.outputs import require_folder
from pyserini_llm_sparse.indexing.lucene.failures import failure
from pyserini_llm_sparse.indexing.lucene.index_spec import index_state
from pyserini_llm_sparse.indexing.lucene.reading import LuceneIndex
from pyserini_llm_sparse.indexing.lucene.source import EncodedVectors, read_vectors

MARKS = ("segments_*", "write.lock")  # files of an index; the second alone is there if its making was interrupted


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
    overwrite: bool = False,
) -> IndexReport:
    """Run Pyserini's indexer over a folder of vectors, then check that each document is in the index exactly once.

    The indexer itself loses malformed input silently and ends with exit code 0, also on a full disk, hence the checks.
    Vectors that `encode` wrote must be as their manifest says.

    Args:
        vectors: Folder of JSONL files as ``pyserini.encode`` writes them; its spec lies beside it.
        index: The index directory.
        threads: Indexing threads.
        store_raw: Whether the index keeps the JSON of each document.
        store_vectors: Whether it keeps term vectors.
        log: File for what the indexer prints; None to drop it unless it fails.
        overwrite: Whether an index that is there already may be replaced.

    Raises:
        UsageError: There is an index already, or something else.
        ResourceError: The vectors are not there, or the disk is full.
        DataError: The vectors are not what was encoded, a line is broken, or an id stands there twice.
        RunError: The indexer failed, or documents or postings are missing from the index.
    """
    target = Path(index).resolve()
    require_folder(target, overwrite, "Lucene index", MARKS)
    source = Path(vectors).absolute()  # a link's own name: what belongs to it may lie beside it
    read = read_vectors(source)
    arguments = [
        "--collection", "JsonVectorCollection", "--input", str(source), "--index", str(target),
        "--threads", str(threads), "--impact", "--pretokenized",
        *(["--storeRaw"] if store_raw else []), *(["--storeDocvectors"] if store_vectors else []),
    ]  # fmt: skip
    run_indexer(arguments, target, log)
    return _verified(read, target)


def verify(vectors: str | Path, index: str | Path) -> IndexReport:
    """Check that each document of a folder of vectors is in an index exactly once, with all its terms.

    Args:
        vectors: As for `index`.
        index: The index directory.

    Raises:
        LlmSparseError: As `index` says.
    """
    return _verified(read_vectors(Path(vectors).absolute()), Path(index).resolve())


def _verified(read: EncodedVectors, target: Path) -> IndexReport:
    with LuceneIndex(target) as opened:
        indexed = _require_same_documents(opened, read.documents, read.empty)
        if opened.postings < read.postings:
            raise RunError(
                f"{target}: holds {opened.postings:,} of {read.postings:,} postings: the indexer lost terms; "
                "encode the corpus again and index the vectors"
            )
        if opened.postings > read.postings:
            raise RunError(
                f"{target}: holds {opened.postings:,} postings instead of {read.postings:,}: Lucene divided terms, at "
                "white space or after 255 characters; name such terms otherwise in the vectors"
            )
    return IndexReport(encoded=indexed + len(read.empty), empty=len(read.empty), indexed=indexed)


def run_indexer(arguments: Sequence[str], index: str | Path, log: str | Path | None) -> None:
    """Run ``pyserini.index.lucene`` in a process that ends with this one, and require that it writes a commit.

    Args:
        arguments: Its arguments, but for the generator.
        index: The index directory, for the message.
        log: File for what it prints; None to drop it unless it fails.

    Raises:
        ResourceError: The disk is full.
        RunError: It failed, or ended well without writing anything, which it does where it cannot write.
    """
    before = index_state(index)
    command = ("pyserini.index.lucene", "--generator", "DefaultLuceneDocumentGenerator", *arguments)
    with child(*command, output=subprocess.PIPE) as process:
        assert process.stdout is not None
        printed = process.stdout.read().decode("utf-8", "replace")
        code = process.wait()
    if log is not None:
        with disk_errors(Path(log)):
            Path(log).write_text(printed, encoding="utf-8")
    if code != 0:
        raise failure(index, f"pyserini.index.lucene ended with exit code {code}", printed)
    if index_state(index) == before:
        raise failure(index, "pyserini.index.lucene wrote no index", printed)


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

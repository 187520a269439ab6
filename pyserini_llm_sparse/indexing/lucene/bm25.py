"""BM25 over texts: an index of documents made by Pyserini's indexer, and many queries searched in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import RunError
from pyserini_llm_sparse.indexing.lucene.building import run_indexer
from pyserini_llm_sparse.indexing.lucene.reading import Hit, OpenedIndex

K1 = 0.9  # Anserini's defaults, the field's baseline
B = 0.4


def index_texts(
    documents: str | Path,
    index: str | Path,
    *,
    threads: int = 1,
    log: str | Path | None = None,
    count: int | None = None,
) -> None:
    """Run Pyserini's indexer over a folder of JSON lines with ``id`` and ``contents``, under its default analyzer.

    Args:
        documents: Folder of JSONL files; every file in it is read.
        index: The index directory, replaced if it is an index.
        threads: Indexing threads.
        log: File for what the indexer prints; None to drop it unless it fails.
        count: Number of documents that must be in the index; None not to check.

    Raises:
        RunError: The indexer failed, or documents are missing from the index.
    """
    arguments = [
        "--collection", "JsonCollection", "--input", str(Path(documents).resolve()),
        "--index", str(Path(index).resolve()), "--threads", str(threads),
    ]  # fmt: skip
    run_indexer(arguments, index, log)
    if count is None:
        return
    with BM25Index(index) as opened:
        if len(opened) != count:
            raise RunError(f"{index}: holds {len(opened)} of {count} documents; index them again")


class BM25Index(OpenedIndex):
    """An index of texts opened for searching with BM25, through Anserini's own searcher."""

    def __init__(self, index: str | Path, k1: float = K1, b: float = B) -> None:
        """Open an index; see `OpenedIndex` for what can go wrong."""
        self._parameters = k1, b
        super().__init__(index, "index the documents first")

    def _opened(self) -> Any:
        searcher = self._java("io.anserini.search.SimpleSearcher")(str(self.path))
        searcher.set_bm25(*self._parameters)
        return searcher

    def __len__(self) -> int:
        with self._turn("cannot be read"):
            return int(self._searcher.get_total_num_docs())

    def search_batch(self, queries: Mapping[str, str], k: int = 1000, threads: int = 1) -> dict[str, list[Hit]]:
        """Return the best ``k`` documents for each query by its id, best first, searched in threads.

        Equal scores are ordered by document id. A query of which the analyzer leaves nothing finds nothing.
        """
        with self._turn("cannot be searched"):
            texts, names = self._java("java.util.ArrayList")(), self._java("java.util.ArrayList")()
            for name, text in queries.items():
                texts.add(text)
                names.add(name)
            found = self._searcher.batch_search(texts, names, k, threads)
            return {name: [Hit(hit.docid, hit.score) for hit in found.get(name) or ()] for name in queries}

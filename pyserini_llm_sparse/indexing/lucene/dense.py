"""Dense vectors in Lucene's HNSW graph, for which Pyserini has no command that takes one's own encoder.

The vectors are those that ``pyserini.encode --to-faiss`` wrote. Anserini builds the index, and Lucene searches it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import PrerequisiteError, ResourceError, RunError
from pyserini_llm_sparse.indexing.lucene.failures import java_errors
from pyserini_llm_sparse.indexing.lucene.index_spec import index_state
from pyserini_llm_sparse.indexing.lucene.reading import DOCUMENT_ID, ONE_AT_A_TIME, OpenedIndex, java_classes

VECTOR = "vector"  # Anserini's field
LINKS = 16  # of a node in the graph; this and the next are what Anserini's regressions use
CANDIDATES_WHEN_BUILT = 100
LEAST_CANDIDATES = 1000  # of a search, as in Anserini's regressions


def index_vectors(vectors: Path, index: Path, threads: int = 1) -> int:
    """Index the vectors of a faiss folder in Lucene. Returns how many there are.

    Args:
        vectors: Folder with ``index``, a flat faiss index, and ``docid``, a line for each vector.
        index: Folder of the new index.
        threads: Of the indexer.

    Raises:
        ResourceError: The vectors are not there.
        RunError: Not all of them are in the index, or Anserini failed.
    """
    faiss = _faiss()
    try:
        stored = faiss.read_index(str(vectors / "index"))
        ids = (vectors / "docid").read_text(encoding="utf-8").splitlines()
    except (OSError, RuntimeError) as error:
        raise ResourceError(f"{vectors}: no faiss vectors there: encode with --to-faiss first") from error
    java = java_classes()
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "vectors.jsonl").open("wb") as stream:
            for name, vector in zip(ids, stored.reconstruct_n(0, stored.ntotal).tolist(), strict=True):
                stream.write(orjson.dumps({"docid": name, "vector": vector}) + b"\n")
        before = index_state(index)
        with ONE_AT_A_TIME, java_errors(index, "Anserini cannot index the vectors"):
            java("io.anserini.index.IndexHnswDenseVectors").main([
                "-collection", "JsonDenseVectorCollection", "-input", folder, "-index", str(index.resolve()),
                "-generator", "DenseVectorDocumentGenerator", "-threads", str(threads), "-M", str(LINKS), "-efC",
                str(CANDIDATES_WHEN_BUILT),
            ])  # fmt: skip
    if index_state(index) == before:  # Anserini ends well also where it cannot write
        raise RunError(f"{index}: Anserini wrote no index of the vectors; look for its reason in what it printed")
    with DenseIndex(index) as opened:
        if len(opened) != len(ids):
            raise RunError(f"{index}: holds {len(opened)} of {len(ids)} vectors; why is in what Anserini printed")
    return len(ids)


class DenseIndex(OpenedIndex):
    """An HNSW index of Anserini, opened for searching, by one thread at a time."""

    def __init__(self, index: str | Path) -> None:
        """Open an index; see `OpenedIndex` for what can go wrong."""
        super().__init__(index, "make one with its index command")

    def _opened(self) -> Any:
        directory = self._java("org.apache.lucene.store.FSDirectory").open(
            self._java("java.nio.file.Paths").get(str(self.path))
        )
        self._reader = self._java("org.apache.lucene.index.DirectoryReader").open(directory)
        # Without the casts pyjnius may choose constructors and methods of the same name that take something else.
        return self._java("org.apache.lucene.search.IndexSearcher")(
            _cast("org.apache.lucene.index.IndexReader", self._reader)
        )

    def close(self) -> None:
        """Close the index."""
        with self._turn("cannot be closed"):
            self._reader.close()

    def __len__(self) -> int:
        with self._turn("cannot be read"):
            return int(self._reader.numDocs())

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
        """Return ids and scores of the ``k`` documents that the graph leads to, best first.

        Args:
            vector: The query's, ``[dimension]``.
            k: How many.
        """
        with self._turn("cannot be searched"):
            query = self._java("org.apache.lucene.search.KnnFloatVectorQuery")(
                VECTOR, vector.tolist(), max(k, LEAST_CANDIDATES)
            )
            found = self._searcher.search(_cast("org.apache.lucene.search.Query", query), k)
            stored = self._searcher.storedFields()
            return [(stored.document(hit.doc).get(DOCUMENT_ID), float(hit.score)) for hit in found.scoreDocs]


def _cast(java_class: str, value: Any) -> Any:
    from jnius import cast

    return cast(java_class, value)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise PrerequisiteError("dense vectors: faiss is not installed; pip install faiss-cpu") from error
    return faiss

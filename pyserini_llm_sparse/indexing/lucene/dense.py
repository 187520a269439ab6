"""Dense vectors in Lucene's HNSW graph, for which Pyserini has no command that takes one's own encoder.

The vectors are those that ``pyserini.encode --to-faiss`` wrote. Anserini builds the index, and Lucene searches it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import PrerequisiteError, ResourceError, RunError
from pyserini_llm_sparse.indexing.lucene.reading import DOCUMENT_ID, java_classes

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
        RunError: Not all of them are in the index.
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
        java("io.anserini.index.IndexHnswDenseVectors").main([
            "-collection", "JsonDenseVectorCollection", "-input", folder, "-index", str(index.resolve()), "-generator",
            "DenseVectorDocumentGenerator", "-threads", str(threads), "-M", str(LINKS), "-efC",
            str(CANDIDATES_WHEN_BUILT),
        ])  # fmt: skip
    with DenseIndex(index) as opened:
        if len(opened) != len(ids):
            raise RunError(f"{index}: holds {len(opened)} of {len(ids)} vectors; index them again")
    return len(ids)


class DenseIndex:
    """An HNSW index of Anserini, opened for searching."""

    def __init__(self, index: str | Path) -> None:
        """Open an index.

        Raises:
            ResourceError: There is no index in that place.
            PrerequisiteError: There is no fit Java.
        """
        if not any(Path(index).glob("segments_*")):
            raise ResourceError(f"{index}: no Lucene index there; make one with its index command")
        self._java = java_classes()
        directory = self._java("org.apache.lucene.store.FSDirectory").open(
            self._java("java.nio.file.Paths").get(str(Path(index).resolve()))
        )
        self._reader = self._java("org.apache.lucene.index.DirectoryReader").open(directory)
        # Without the casts pyjnius may choose constructors and methods of the same name that take something else.
        self._searcher = self._java("org.apache.lucene.search.IndexSearcher")(
            _cast("org.apache.lucene.index.IndexReader", self._reader)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._reader.close()

    def __len__(self) -> int:
        return int(self._reader.numDocs())

    def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
        """Return ids and scores of the ``k`` documents that the graph leads to, best first.

        Args:
            vector: The query's, ``[dimension]``.
            k: How many.
        """
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

"""Dense vectors in Lucene: found as computed, also from several threads; what Java says of a bad index is one line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.indexing.lucene.dense import DenseIndex, index_vectors

pytestmark = pytest.mark.end_to_end


def faiss_folder(folder: Path, vectors: np.ndarray) -> Path:
    """A folder as ``pyserini.encode --to-faiss`` writes it."""
    import faiss

    folder.mkdir()
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    faiss.write_index(flat, str(folder / "index"))
    (folder / "docid").write_text("".join(f"d{number}\n" for number in range(len(vectors))))
    return folder


@pytest.mark.usefixtures("pyserini")
def test_dense_vectors_are_found_from_any_thread_and_a_damaged_index_is_told(tmp_path: Path) -> None:
    vectors = np.eye(64, dtype=np.float32)[:50]
    assert index_vectors(faiss_folder(tmp_path / "vectors", vectors), tmp_path / "index") == 50
    with DenseIndex(tmp_path / "index") as opened:

        def best(number: int) -> str:
            return opened.search(vectors[number], 1)[0][0]

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(best, range(50))) == [f"d{number}" for number in range(50)]
        with pytest.raises(DataError, match=r"index: cannot be searched: .*another model made the index"):
            opened.search(np.ones(8, np.float32), 1)
    commit = next((tmp_path / "index").glob("segments_*"))
    commit.write_bytes(commit.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"index: cannot be opened: .*CorruptIndexException.*index the vectors again"):
        DenseIndex(tmp_path / "index")

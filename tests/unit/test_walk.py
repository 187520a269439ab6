"""One walk finds the files of corpora, training data, vectors and models: that of Anserini, which follows links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import DataError, LlmSparseError, ResourceError
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.folders import corpus_files
from pyserini_llm_sparse.files.walk import files_below
from pyserini_llm_sparse.indexing.lucene.source import read_vectors
from pyserini_llm_sparse.indexing.vectors.encode import _is_inside
from pyserini_llm_sparse.plugin.patches.indexing import _view_without
from pyserini_llm_sparse.regressions.run.models import dense_digest
from pyserini_llm_sparse.training.data.source_files import parts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows may refuse to make links")
LINE = '{"id": "%s", "contents": "x", "vector": {"a": 1}}\n'


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with a file, a linked folder that holds another and a linked file, and a linked file."""
    for name in ("store/deep/b.jsonl", "other/c.jsonl", "other/d.jsonl", "folder/a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LINE % Path(name).stem, encoding="utf-8")
    (tmp_path / "store" / "d.jsonl").symlink_to(tmp_path / "other" / "d.jsonl")
    (tmp_path / "folder" / "part").symlink_to(tmp_path / "store")
    (tmp_path / "folder" / "c.jsonl").symlink_to("../other/c.jsonl")
    return tmp_path / "folder"


NAMES = ["a.jsonl", "c.jsonl", "part/d.jsonl", "part/deep/b.jsonl"]


def test_linked_files_and_folders_are_found_wherever_files_are_looked_for(linked: Path) -> None:
    expected = [linked / name for name in NAMES]
    assert files_below(linked) == corpus_files(linked) == [Path(part) for part in parts(str(linked))] == expected
    assert read_vectors(linked).documents == set("abcd")
    view = _view_without(linked, [linked / "a.jsonl"])
    assert [path.relative_to(view).as_posix() for path in files_below(view)] == NAMES[1:]


def test_a_models_digest_is_of_linked_files_too(linked: Path) -> None:
    dense_digest.cache_clear()
    before = dense_digest(str(linked))
    (linked.parent / "store" / "deep" / "b.jsonl").write_text("other", encoding="utf-8")
    dense_digest.cache_clear()
    assert dense_digest(str(linked)) != before


def test_an_output_in_a_linked_folder_lies_in_the_corpus(linked: Path) -> None:
    store, other = linked.parent / "store", linked.parent / "other"
    assert _is_inside(linked / "vectors", linked)
    assert _is_inside(store / "vectors", linked)
    assert not _is_inside(other / "vectors", linked)
    assert not _is_inside(other / "vectors", other / "c.jsonl")


def test_hidden_files_are_left_out_only_where_they_may_be(linked: Path) -> None:
    (linked / ".hidden.jsonl").write_text("", encoding="utf-8")
    assert corpus_files(linked) == [linked / name for name in NAMES]
    assert files_below(linked)[0] == linked / ".hidden.jsonl"


def test_files_of_records_that_are_left_out_of_a_corpus_are_told(
    linked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        caplog.clear()
        list(read_corpus(linked))
        return caplog.messages

    assert told() == []
    (linked / ".hidden.jsonl").write_text("", encoding="utf-8")
    (linked / ".DS_Store").write_bytes(b"\x00")
    said = "not read, being hidden or beside corpus.jsonl: "
    assert told() == [f"{linked}: 1 file of records is {said}.hidden.jsonl"]
    (linked / "corpus.jsonl").write_text(LINE % "1", encoding="utf-8")
    (linked / "queries.jsonl").write_text(LINE % "q", encoding="utf-8")
    assert told() == [f"{linked}: 5 files of records are {said}.hidden.jsonl, a.jsonl, c.jsonl, ..."]


def test_what_cannot_be_read_once_and_whole_is_an_error_that_names_it(linked: Path) -> None:
    cases: dict[str, tuple[type[LlmSparseError], str]] = {
        "loop": (DataError, "folder/loop: a link to a folder that it lies in"),
        "broken.jsonl": (ResourceError, r"broken\.jsonl: a link that leads nowhere"),
        "pipe.jsonl": (DataError, r"pipe\.jsonl: neither a file nor a folder"),
    }
    for name, (kind, said) in cases.items():
        path = linked / name
        if name == "pipe.jsonl":
            os.mkfifo(path)
        else:
            path.symlink_to(linked if name == "loop" else linked / "nothing")
        with pytest.raises(kind, match=said):
            files_below(linked)
        path.unlink()


def beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "x"}\n', encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n", encoding="utf-8")
    return folder


def test_a_folder_above_beir_folders_is_refused(tmp_path: Path) -> None:
    for name in ("android", "gis"):
        beir(tmp_path / name)
    said = r": a folder above 2 in the BEIR layout \(.*android, .*gis\): .*; name one of these folders"
    with pytest.raises(DataError, match=said):
        corpus_files(tmp_path)
    with pytest.raises(DataError, match=said):
        parts(str(tmp_path))
    assert corpus_files(tmp_path / "gis") == [tmp_path / "gis" / "corpus.jsonl"]


def test_queries_and_judgements_are_no_documents(tmp_path: Path) -> None:
    folder = beir(tmp_path)
    (folder / "corpus.jsonl").rename(folder / "documents.jsonl")
    with pytest.raises(DataError, match=r"test\.tsv: queries or judgements by its name"):
        corpus_files(folder)
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"queries\.jsonl: queries or judgements by its name"):
        corpus_files(folder)
    assert corpus_files(folder / "queries.jsonl") == [folder / "queries.jsonl"]


def test_judgements_are_no_training_examples(tmp_path: Path) -> None:
    folder = beir(tmp_path)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(ResourceError, match="no training examples"):
        parts(str(folder))

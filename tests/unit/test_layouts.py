"""Judgements, training files and fields of another layout than is read are refused or told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.trec import read_qrels
from pyserini_llm_sparse.training.data.sources import read_examples


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("content", ["q d1 1 0\nq d2 0 0\n", "1 101 1 0\n1 102 0 0\n2 103 1 0\n"])
def test_judgements_with_the_grade_before_the_iteration_are_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="judgements of another layout: the third column holds grades"):
        read_qrels(write(tmp_path / "qrels", content))


@pytest.mark.parametrize("content", ["1 0 2 1\n", "1 Q0 2 1\n1 Q0 3 0\n", "1 4.5 d 1\n", "1 2 1\n", "1 a d 1\n"])
def test_judgements_of_the_usual_layouts_are_read(content: str, tmp_path: Path) -> None:
    assert read_qrels(write(tmp_path / "qrels", content))


@pytest.mark.parametrize("header", ["query\tpositive\tnegative", "qid\tpid", "anchor\tpositive", '"query"\t"passage"'])
def test_a_header_is_no_training_example(header: str, tmp_path: Path) -> None:
    rest = "\t".join("a text" for _ in header.split("\t"))
    path = write(tmp_path / "t.tsv", f"{header}\n{rest}\n")
    with pytest.raises(DataError, match=r"t\.tsv:1: a header: it names columns and is no example.*remove the line"):
        list(read_examples(str(path)))
    assert len(list(read_examples(str(write(tmp_path / "u.tsv", f"{rest}\n"))))) == 1


def test_fields_that_pyserini_does_not_encode_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoders = pytest.importorskip("pyserini_llm_sparse.plugin.encoders", reason="Pyserini is not installed")
    corpus = str(write(tmp_path / "c.jsonl", '{"_id": "1", "title": "T", "text": "x"}\n'))
    encoders.warn_of_left_out_fields(corpus, ["text"], ["text"])
    encoders.warn_of_left_out_fields(corpus, ["title", "text"], ["text"])
    encoders.warn_of_left_out_fields(corpus, ["title", "text"], ["title", "text"])
    first, second = caplog.messages
    assert first.startswith(f"{corpus}: title is not encoded: ")
    assert first.endswith("give `input --fields title text` and `encoder --fields title text`")
    assert second == ("pyserini.encode: title is read and not encoded; give `encoder --fields title text` as well")

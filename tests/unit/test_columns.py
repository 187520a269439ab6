"""TSV files: a first line that names columns is no record, and topics are what Pyserini takes them for."""

from __future__ import annotations

import os
import sys
import threading
import types
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import ResourceError
from pyserini_llm_sparse.files.corpus import count_records, read_corpus
from pyserini_llm_sparse.files.records import Document, Rejected
from pyserini_llm_sparse.files.topics import PYSERINI, Topic, read_topics
from pyserini_llm_sparse.indexing.lucene import jdk
from pyserini_llm_sparse.indexing.lucene.named import named_topics


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def documents(path: Path, fields: list[str] | None = None) -> list[tuple[str, str]]:
    records = list(read_corpus(path, fields))
    assert all(isinstance(record, Document) for record in records), records
    return [(record.id, record.text) for record in records if isinstance(record, Document)]


def test_a_header_of_a_corpus_names_its_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "psgs.tsv", 'id\ttext\ttitle\n1\t"He had ""a"" brother."\tAaron\n2\tPlain "x"\tB\n')
    assert documents(path) == [("1", 'Aaron He had "a" brother.'), ("2", 'B Plain "x"')]
    assert caplog.messages == [f"{path}: the first line names columns (id, text, title) and is not taken for a record"]
    assert documents(path, ["title"]) == [("1", "Aaron"), ("2", "B")]


def test_a_line_that_does_not_fit_the_header_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tsv", 'id\ttext\ttitle\n1\tx\n2\t"x" y\tT\n3\ty\tT\n')
    short, broken, good = read_corpus(path)
    assert isinstance(short, Rejected)
    assert "c.tsv:2: 2 columns (id '1'): the header names 3" in short.message()
    assert isinstance(broken, Rejected)
    assert "c.tsv:3: broken quotes" in broken.message()
    assert good == Document("3", "T y", str(path), 4)


@pytest.mark.parametrize("header", ["pid\tpassage", "doc-id\tcontent", "#id\ttext", '"id"\t"text"', "ID\tText"])
def test_a_header_of_two_columns_is_left_out_whatever_it_calls_the_text(header: str, tmp_path: Path) -> None:
    assert documents(write(tmp_path / "c.tsv", f"{header}\n1\tone\n")) == [("1", "one")]


@pytest.mark.parametrize("line", ["id\tcard lost", "q1\tid", "1\ttext", "identity\ttext"])
def test_a_first_record_is_not_taken_for_a_header(line: str, tmp_path: Path) -> None:
    name, text = line.split("\t")
    assert documents(write(tmp_path / "c.tsv", f"{line}\n")) == [(name, text)]


def test_tabs_in_texts_and_fields_without_names_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "c.tsv", "1\tone\tmore\n2\ttwo\n3\tthree\tmore\n")
    assert documents(path)[0] == ("1", "one\tmore")
    assert caplog.messages == [f"{path}: 2 records have further tabs, which are a part of the text"]
    caplog.clear()
    documents(path, ["title"])
    assert [message.split(", so")[0] for message in caplog.messages] == [f"{path}: 3 records have no names of columns"]


def test_the_second_column_of_topics_is_the_query(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "t.tsv", "1\twhat is bread\tbaking powder\tsoda\n2\tyeast\n3\tmalt\t\n")
    assert read_topics(path) == [Topic("1", "what is bread"), Topic("2", "yeast"), Topic("3", "malt")]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{path}: 1 record has further columns, which are not a part of the query")


def test_zeros_before_an_id_which_pyserini_would_drop_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "t.tsv", "051\tbread\n0\tyeast\n7\tmalt\n")
    assert [topic.id for topic in read_topics(path)] == ["051", "0", "7"]
    assert [message.split(",")[0] for message in caplog.messages] == [f"{path}: 1 record has an id with leading zeros"]


@pytest.mark.parametrize("header", ["qid\tquery", "query-id\ttext", "topic_id\ttitle"])
def test_a_header_of_topics_is_no_query(header: str, tmp_path: Path) -> None:
    assert read_topics(write(tmp_path / "t.tsv", f"{header}\n1\tbread\n")) == [Topic("1", "bread")]


def test_columns_of_topics_are_found_by_their_names(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "qid\turl\tquery\n1\thttp://a\tbread\n")
    assert read_topics(path) == [Topic("1", "bread")]


def test_of_several_texts_of_a_topic_that_which_pyserini_reads_is_taken_and_the_others_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "t.jsonl", '{"id": "1", "text": "long", "title": "short"}\n{"_id": "2", "text": "x"}\n')
    assert read_topics(path) == [Topic("1", "short"), Topic("2", "x")]
    assert caplog.messages == [f"{path}: 1 record has text beside title, which alone is the query"]


def test_formats_that_only_pyserini_knows_are_asked_of_it(tmp_path: Path) -> None:
    asked = []

    def named(name: str) -> dict[str, str]:
        asked.append(name)
        return {"301": "bread"}

    contents = {
        "t.trec": "<top>\n<num> Number: 301\n",
        "t.json": '{"301": {"title": "bread"}}',
        "p.json": '{\n "301": {\n  "title": "bread"\n }\n}\n',
    }
    for name, content in contents.items():
        path = write(tmp_path / name, content)
        assert read_topics(path, named) == [Topic("301", "bread")]
        assert asked.pop() == f"{PYSERINI}{path}"
        with pytest.raises(ResourceError, match="topics that Pyserini reads"):
            read_topics(path)
    assert read_topics(write(tmp_path / "l.json", '{"id": "1", "title": "x"}\n'), named) == [Topic("1", "x")]
    assert not asked


def test_pyserini_is_asked_by_absolute_paths_since_java_stays_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Iterator:
        @staticmethod
        def from_topics(name: str) -> list[tuple[str, str]]:
            asked.append(name)
            return [("1", "bread")]

    module = types.ModuleType("pyserini.query_iterator")
    module.DefaultQueryIterator = Iterator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyserini", types.ModuleType("pyserini"))
    monkeypatch.setitem(sys.modules, "pyserini.query_iterator", module)
    monkeypatch.setattr(jdk, "use_jdk", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert named_topics(f"{PYSERINI}t.trec") == named_topics("robust04") == {"1": "bread"}
    assert asked == [str(tmp_path / "t.trec"), "robust04"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("content", ["1\tbread\n", '{"id": "1", "title": "bread"}\n'])
def test_a_pipe_is_a_file(content: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=write, args=(tmp_path / "pipe", content))
    writer.start()
    assert read_topics(tmp_path / "pipe") == [Topic("1", "bread")]
    writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_corpus_may_come_through_a_pipe_which_is_not_read_to_count_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert count_records(tmp_path / "pipe") is None
    writer = threading.Thread(target=write, args=(tmp_path / "pipe", '{"id": "1", "text": "bread"}\n'))
    writer.start()
    assert documents(tmp_path / "pipe") == [("1", "bread")]
    writer.join()

"""Corpora and topics are read whole and in order, and what cannot be used is named with file, line and remedy."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import sys
from pathlib import Path

import pytest
import zstandard

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.duplicates import SeenIds
from pyserini_llm_sparse.files.folders import corpus_files
from pyserini_llm_sparse.files.lines import MAXIMUM_LINE, read_lines
from pyserini_llm_sparse.files.records import Document, Rejected
from pyserini_llm_sparse.files.topics import Topic, read_topics
from pyserini_llm_sparse.files.trec import run_lines
from pyserini_llm_sparse.files.vector_lines import cached_query_line, tsv_string_line, vector_line

GOOD = b'{"id": "good", "contents": "a text"}\n'


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def texts(corpus: Path | str, fields: list[str] | None = None) -> list[tuple[str, str]]:
    records = list(read_corpus(corpus, fields))
    assert all(isinstance(record, Document) for record in records), records
    return [(record.id, record.text) for record in records if isinstance(record, Document)]


# What is wrong, the line, and a part of what is said about it.
BAD_LINES = {
    "broken JSON": (b'{"id": "1", "contents": "x"', "broken JSON: unexpected end of data"),
    "raw NUL byte": (b'{"id": "1", "contents": "a\x00b"}', "broken JSON: unexpected control character"),
    "escaped NUL": (b'{"id": "1", "contents": "a\\u0000b"}', "NUL character in the text (id '1')"),
    "not an object": (b'["1", "x"]', "not a JSON object: the line is a list"),
    "invalid UTF-8": (b'{"id": "1", "contents": "\xff"}', "invalid UTF-8: byte 0xff at position 25"),
    "missing id": (b'{"contents": "x"}', "missing id: none of id, _id, docid"),
    "empty id": (b'{"id": "", "contents": "x"}', "missing id: id is an empty string"),
    "id null": (b'{"id": null, "contents": "x"}', "unusable id: id is null, not a string"),
    "id a fraction": (b'{"id": 1.5, "contents": "x"}', "unusable id: id is float, not a string"),
    "id a truth value": (b'{"id": true, "contents": "x"}', "unusable id: id is bool, not a string"),
    "space in the id": (b'{"id": "a b", "contents": "x"}', "white space or a control character"),
    "no-break space in the id": (b'{"id": "a\xc2\xa0b", "contents": "x"}', "white space or a control character"),
    "lone surrogate in the id": (b'{"id": "\\ud800", "contents": "x"}', "id holds a lone surrogate"),
    "lone surrogate in the text": (b'{"id": "1", "contents": "x\\ud800"}', "lone surrogate in the text (id '1')"),
    "empty text": (b'{"id": "1", "contents": ""}', "empty text (id '1'): Lucene drops a document without terms"),
    "white space only": (b'{"id": "1", "contents": " \\n "}', "empty text (id '1')"),
    "empty fields": (b'{"id": "1", "title": "", "text": null}', "empty text (id '1')"),
    "no such field": (
        b'{"id": "1", "body": "x"}',
        "no field contents or title or text (id '1'): the record has id, body",
    ),
    "field not text": (b'{"id": "1", "contents": ["x"]}', "field contents is not text (id '1'): it is a list"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_rejected_with_its_place_and_the_next_one_is_read(case: str, tmp_path: Path) -> None:
    line, said = BAD_LINES[case]
    path = write(tmp_path / "c.jsonl", b"\n" + line + b"\n" + GOOD)
    bad, good = list(read_corpus(path))
    assert isinstance(bad, Rejected)
    assert bad.message().startswith(f"{path}:2: ")
    assert said in bad.message()
    assert "; " in bad.message()
    assert "\n" not in bad.message()
    assert isinstance(bad.error(), DataError)
    assert good == Document("good", "a text", str(path), 3)


def test_what_is_wrong_in_a_field_that_is_not_used_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", b'{"id": "1", "contents": "x", "other": "\\ud800", "score": NaN}\n')
    assert texts(path) == [("1", "x")]


def test_a_document_of_a_megabyte_is_read_whole(tmp_path: Path) -> None:
    text = "word " * 200_000 + "end"
    path = write(tmp_path / "c.jsonl", json.dumps({"id": "1", "contents": text}).encode())
    assert texts(path) == [("1", text)]


def test_a_line_beyond_the_limit_is_rejected_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b'{"id": "1", "contents": "')
        for _ in range((MAXIMUM_LINE >> 20) + 2):
            stream.write(b"x" * 2**20)
        stream.write(b'"}\n' + GOOD)
    bad, good = list(read_corpus(path))
    assert isinstance(bad, Rejected)
    assert "line longer than 64 MiB" in bad.message()
    assert good == Document("good", "a text", str(path), 2)


def test_ids_may_be_under_each_customary_key_and_whole_numbers(tmp_path: Path) -> None:
    lines = b'{"id": "a", "contents": "x"}\n{"_id": "b", "contents": "x"}\n{"docid": 7, "contents": "x"}\n'
    assert [name for name, _ in texts(write(tmp_path / "c.jsonl", lines))] == ["a", "b", "7"]


def test_title_and_text_are_stripped_and_joined_by_a_space(tmp_path: Path) -> None:
    records = ({"title": " A ", "text": "b\n"}, {"title": "", "text": "b"}, {"text": "c"})
    lines = b"\n".join(json.dumps({"id": str(n), **record}).encode() for n, record in enumerate(records, start=1))
    assert texts(write(tmp_path / "c.jsonl", lines)) == [("1", "A b"), ("2", "b"), ("3", "c")]


def test_named_fields_are_joined_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", b'{"id": "1", "contents": "c", "a": "x", "b": "y"}')
    assert texts(path, ["b", "a"]) == [("1", "y x")]


def test_a_field_that_no_record_has_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "c.jsonl", b'{"id": "1", "title": "x"}\n{"id": "2", "title": "x", "text": "y"}\n')
    assert texts(path, ["title", "text"]) == [("1", "x"), ("2", "x y")]
    assert caplog.messages == []
    assert texts(path, ["titel", "text", "title"])[0] == ("1", "x")
    assert caplog.messages == [f"{path}: no record has a field titel: the vectors are without it"]


def test_a_tsv_line_is_id_tab_text(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tsv", "1\tone\r\n2\ttwo\tmore\n3 three\n4\tünïcode\n".encode())
    first, second, bad, last = list(read_corpus(path))
    assert (first, second, last) == (
        Document("1", "one", str(path), 1),
        Document("2", "two\tmore", str(path), 2),
        Document("4", "ünïcode", str(path), 4),
    )
    assert isinstance(bad, Rejected)
    assert "no tab in the line" in bad.message()


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") * 1)
    assert texts(path) == [("good", "a text")]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compressed_files_read_the_same(suffix: str, tmp_path: Path) -> None:
    lines = b"".join(b'{"id": "%d", "contents": "text %d"}\n' % (number, number) for number in range(5000))
    # Two members or frames, as `cat a.gz b.gz` makes them.
    pieces = (lines[:100_000], lines[100_000:])
    packed = {"": lines, ".gz": b"".join(map(gzip.compress, pieces)), ".zst": b"".join(map(zstandard.compress, pieces))}
    path = write(tmp_path / f"c.jsonl{suffix}", packed[suffix])
    assert texts(path) == [(str(number), f"text {number}") for number in range(5000)]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_compressed_file_is_an_error_and_not_the_end_of_the_corpus(
    suffix: str, damage: str, tmp_path: Path
) -> None:
    lines = os.urandom(200_000).hex().encode()
    checked = zstandard.ZstdCompressor(write_checksum=True)  # as the zstd command does
    whole = gzip.compress(lines) if suffix == ".gz" else checked.compress(lines)
    content = whole[:-1000] if damage == "cut off" else whole[:50_000] + bytes(1000) + whole[51_000:]
    with pytest.raises(DataError, match=f"damaged or cut-off {suffix} file"):
        list(read_lines(write(tmp_path / f"c.jsonl{suffix}", content)))


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for name in ("part/b.jsonl", "part/a.jsonl.gz", "c.tsv"):
        line = b"c\tx" if name == "c.tsv" else b'{"id": "%s", "contents": "x"}' % name.encode()
        write(tmp_path / name, gzip.compress(line) if name.endswith("gz") else line)
    (tmp_path / ".hidden").write_text("not a corpus")
    (tmp_path / "_SUCCESS").write_text("")
    assert [name for name, _ in texts(tmp_path)] == ["c", "part/a.jsonl.gz", "part/b.jsonl"]


def test_of_a_folder_in_the_beir_layout_only_the_corpus_is_read(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl.gz", gzip.compress(b'{"_id": "1", "title": "T", "text": "x"}\n'))
    write(tmp_path / "queries.jsonl", b'{"_id": "q", "text": "x"}\n')
    assert texts(tmp_path) == [("1", "T x")]
    assert read_topics(tmp_path) == [Topic("q", "x")]


def test_a_file_of_another_kind_in_a_corpus_folder_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", GOOD)
    write(tmp_path / "README.md", b"read me")
    with pytest.raises(DataError, match=r"README\.md: not a file of records"):
        corpus_files(tmp_path)


def test_a_corpus_that_is_not_there_is_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no such corpus"):
        list(read_corpus(tmp_path / "nowhere"))
    with pytest.raises(ResourceError, match="it holds no files"):
        list(read_corpus(tmp_path))


def test_a_dataset_id_without_ir_datasets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'pyserini-llm-sparse\[eval\]'"):
        list(read_corpus("irds:vaswani"))


@pytest.mark.filterwarnings("ignore")  # ir_datasets' own
def test_a_dataset_of_ir_datasets_is_read(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets", reason="ir_datasets is not installed")
    documents = write(tmp_path / "docs.tsv", b"1\tone\n2\t\n")
    queries = write(tmp_path / "queries.tsv", b"q\tthe query\n")
    ir_datasets.registry.register(
        "pls-test", ir_datasets.create_dataset(docs_tsv=str(documents), queries_tsv=str(queries))
    )
    good, bad = list(read_corpus("irds:pls-test"))
    assert good == Document("1", "one", "irds:pls-test", 1)
    assert isinstance(bad, Rejected)
    assert bad.message().startswith("irds:pls-test:2: empty text")
    assert read_topics("irds:pls-test") == [Topic("q", "the query")]
    with pytest.raises(ResourceError, match="unknown dataset"):
        list(read_corpus("irds:no-such-dataset"))


def test_topics_are_read_from_tsv_and_json_lines(tmp_path: Path) -> None:
    expected = [Topic("2", "second?"), Topic("1", "first")]
    assert read_topics(write(tmp_path / "t.tsv", b"2\tsecond?\n1\tfirst\n")) == expected
    lines = b'{"_id": "2", "text": "second?", "metadata": {}}\n{"qid": 1, "query": " first "}\n'
    assert read_topics(write(tmp_path / "t.jsonl", lines)) == expected
    assert read_topics("a name", named=lambda name: {"2": "second?", "1": "first"}) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1\tone\n1\ttwo\n", r"t\.tsv:2: duplicate id \(id '1'\)"),
        (b"1\tone\n2\t \n", r"t\.tsv:2: empty text \(id '2'\)"),
        (b"1 one\n", r"t\.tsv:1: no tab"),
        (b"\n", r"no topics"),
    ],
)
def test_a_bad_topic_is_an_error_with_its_place(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read_topics(write(tmp_path / "t.tsv", content))


def test_unknown_topics_are_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"has no queries\.jsonl"):
        read_topics(tmp_path)
    with pytest.raises(ResourceError, match="no such topics"):
        read_topics("no-such-topics", named=lambda name: {})


def test_ids_seen_before_are_found_in_16_bytes_each() -> None:
    seen = SeenIds()
    for start in range(0, 100_000, 1000):
        assert not any(seen.repeated([f"document-{number}" for number in range(start, start + 1000)]))
    assert seen.repeated(["new", "document-0", "document-99999", "new"]) == [False, True, True, True]
    assert sum(run.nbytes for run in seen._runs) <= 16 * 100_004


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_file(path) as stream:
        stream.write(b"first")
    with pytest.raises(ValueError, match="stop"), atomic_file(path) as stream:
        stream.write(b"second, unfinished")
        raise ValueError("stop")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_to_be_full_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files gives the same errors as a full disk, at the same places."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="disk full"), atomic_file(tmp_path / "out") as stream:
            stream.write(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_lines_that_are_written_are_those_of_the_formats() -> None:
    assert vector_line("1", {"Ġthe": 2, "中": 1}) == '{"id":"1","vector":{"Ġthe":2,"中":1}}\n'.encode()
    assert vector_line("1", {"a": 2}, "t\u2028") == '{"id":"1","contents":"t\u2028","vector":{"a":2}}\n'.encode()
    assert json.load(io.BytesIO(cached_query_line("tëxt", {"Ġa": 3}))) == {"contents": "tëxt", "vector": {"Ġa": 3}}
    assert cached_query_line("tëxt", {"Ġa": 3}).isascii()
    assert tsv_string_line("q1", {"a": 2, "b": 1}) == b"q1\ta a b\n"
    assert run_lines("q1", [("d2", 3.5), ("d1", 1)], "tag") == b"q1 Q0 d2 1 3.500000 tag\nq1 Q0 d1 2 1.000000 tag\n"

"""What a file is, is read or named: compressions and tables by their suffixes, all else by how it begins."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.corpus import count_records, read_corpus
from pyserini_llm_sparse.files.lines import read_lines
from pyserini_llm_sparse.files.records import Document, Rejected
from pyserini_llm_sparse.files.topics import Topic, read_topics
from pyserini_llm_sparse.files.trec import read_qrels, read_run
from pyserini_llm_sparse.training.data.sources import read_examples, read_texts, source_fingerprints

RECORDS = [{"id": "1", "title": "A", "text": 'b "c"'}, {"id": "2", "title": "", "text": "two\nlines"}]
TEXTS = [("1", 'A b "c"'), ("2", "two\nlines")]
LINES = "".join(f"{json.dumps(record)}\n" for record in RECORDS).encode()


def read(path: Path, fields: list[str] | None = None) -> list[tuple[str, str]]:
    records = list(read_corpus(path, fields))
    assert all(isinstance(record, Document) for record in records), records
    return [(record.id, record.text) for record in records if isinstance(record, Document)]


@pytest.mark.parametrize("name", ["c.jsonl.bz2", "c.jsonl.xz", "C.JSONL.GZ", "c.json.Bz2"])
def test_compressions_are_known_by_their_suffix_in_any_case(name: str, tmp_path: Path) -> None:
    pack = {"bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress}[name.lower().rpartition(".")[2]]
    (tmp_path / name).write_bytes(pack(LINES))
    assert read(tmp_path / name) == TEXTS
    assert count_records(tmp_path / name) == 2


@pytest.mark.parametrize("suffix", ["bz2", "xz"])
def test_a_damaged_file_is_an_error_and_not_the_end(suffix: str, tmp_path: Path) -> None:
    whole = {"bz2": bz2.compress, "xz": lzma.compress}[suffix](LINES * 1000)
    middle = len(whole) // 2
    for number, content in enumerate((whole[:-20], whole[:middle] + bytes(20) + whole[middle + 20 :])):
        path = tmp_path / f"{number}.jsonl.{suffix}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"damaged or cut-off .{suffix} file"):
            list(read_lines(path))


def test_csv_parquet_and_arrays_are_read_as_records(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('id,title,text\n1,A,"b ""c"""\n2,,"two\nlines"\n', encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(RECORDS, indent=1), encoding="utf-8")
    (tmp_path / "one-line.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    for name in ("c.csv", "a.json", "one-line.json"):
        assert read(tmp_path / name) == TEXTS, name


def test_parquet_is_read_as_records(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == read(tmp_path) == TEXTS
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"d\.parquet: not a Parquet file, or damaged"):
        read(tmp_path / "d.parquet")


def test_what_is_wrong_in_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,text\n1,x,y\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"c\.csv:2: a different number of fields from the header"):
        read(tmp_path / "c.csv")
    (tmp_path / "a.json").write_text('[\n{"id": "1", "text": "x"},\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json: broken JSON array"):
        read(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('[\n{"id": "1", "title": "T", "body": "x"},\n7]', encoding="utf-8")
    first, second = read_corpus(tmp_path / "b.json")
    assert isinstance(first, Rejected)
    assert "b.json:1: title without text, beside body" in first.message()
    assert isinstance(second, Rejected)
    assert "not a JSON object" in second.message()


def test_a_file_that_is_none_of_lines_is_named_for_what_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.jsonl.zip", "w") as archive:
        archive.writestr("c.jsonl", LINES)
    contents = {"c.jsonl": gzip.compress(LINES), "d.jsonl": LINES.decode().encode("utf-16"), "e.tsv": b"PAR1..."}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name, kind in {"c.jsonl.zip": "ZIP", "c.jsonl": "gzip", "d.jsonl": "UTF-16", "e.tsv": "Parquet"}.items():
        with pytest.raises(DataError, match=rf"{name}: not lines of text: its content is {kind}"):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".xml", ".html", ".sgml", ".XML.gz"])
def test_a_format_that_is_not_read_is_named_by_its_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(gzip.compress(b"\n<p>1</p>\n") if suffix.endswith("gz") else b"\n<p>1</p>\n")
    readers: list[Callable[[], object]] = [
        lambda: read(path), lambda: read_topics(path), lambda: list(read_examples(str(path))),
        lambda: list(read_texts(str(path))),
    ]  # fmt: skip
    bare = suffix.lower().removesuffix(".gz")
    for reader in readers:
        with pytest.raises(DataError, match=rf"t{suffix}: not a file of records: {bare} is not read, and no JSON obj"):
            reader()
    path.write_bytes(gzip.compress(LINES) if suffix.endswith("gz") else LINES)
    assert read(path) == TEXTS


def test_an_office_document_is_not_taken_for_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.docx", "w") as archive:
        archive.writestr("document.xml", "<p/>")
    with pytest.raises(DataError, match=r"c\.docx: not lines of text: its content is a document \(\.docx\)"):
        read(tmp_path / "c.docx")


def test_judgements_and_runs_of_other_formats_are_named(tmp_path: Path) -> None:
    for name, content in {"q.xml": b"<a/>", "q.json": b'{"q": {"d": 1}}', "q.csv": b"q,d,1"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}:1: not a judgement"):
            read_qrels(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}:1: not a line of a run"):
            list(read_run(tmp_path / name))
    (tmp_path / "q.txt.xz").write_bytes(lzma.compress(b"q 0 d 1\n"))
    assert read_qrels(tmp_path / "q.txt.xz") == {"q": {"d": 1}}
    (tmp_path / "q.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="its content is Parquet"):
        read_qrels(tmp_path / "q.parquet")


PAIRS = [{"query": "q", "positive": "a\nb", "negative": "c"}, {"query": "r", "positive": 'd "e"', "negative": "f"}]
CSV = 'query,positive,negative\nq,"a\nb",c\nr,"d ""e""",f\n'


def tables(folder: Path, name: str, records: list[dict[str, str]], csv: str) -> list[Path]:
    """The same records as CSV, as an array of JSON, packed in four ways, and as Parquet, where that can be written."""
    array = json.dumps(records, indent=1).encode()
    contents = {
        "csv": csv.encode(), "json": array, "json.bz2": bz2.compress(array), "csv.xz": lzma.compress(csv.encode()),
        "csv.GZ": gzip.compress(csv.encode()), "csv.zst": zstandard.compress(csv.encode()),
    }  # fmt: skip
    for suffix, content in contents.items():
        (folder / f"{name}.{suffix}").write_bytes(content)
    paths = [folder / f"{name}.{suffix}" for suffix in contents]
    if importlib.util.find_spec("pyarrow"):
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / f"{name}.parquet")
        paths.append(folder / f"{name}.parquet")
    return paths


def test_topics_are_read_from_tables(tmp_path: Path) -> None:
    records = [{"qid": "1", "query": "a, b"}, {"qid": "2", "query": "c"}]
    for path in tables(tmp_path, "t", records, 'qid,query\n1,"a, b"\n2,c\n'):
        assert read_topics(path) == [Topic("1", "a, b"), Topic("2", "c")], path
    (tmp_path / "bad.csv").write_text("qid,query\n1,a\n1,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.csv:2: duplicate id"):
        read_topics(tmp_path / "bad.csv")


def test_training_examples_and_texts_are_read_from_tables(tmp_path: Path) -> None:
    paths = tables(tmp_path, "t", PAIRS, CSV)
    for path in paths:
        found = [(one.query, *one.positives, *one.negatives) for one in read_examples(str(path))]
        assert found == [("q", "a\nb", "c"), ("r", 'd "e"', "f")], path
        assert list(read_texts(str(path))) == ["a\nb", 'd "e"'], path
    assert len(list(read_examples(str(tmp_path)))) == 2 * len(paths)
    assert len(source_fingerprints([str(tmp_path)])) == len(paths)
    (tmp_path / "bad.json").write_text('[{"query": "q", "positive": "a"},\n{"query": "q"}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.json:2: no positive"):
        list(read_examples(str(tmp_path / "bad.json")))

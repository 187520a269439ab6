"""What a file is, is read or named: compressions and tables by their suffixes, all else by how it begins."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.corpus import count_records, read_corpus
from pyserini_llm_sparse.files.lines import read_lines
from pyserini_llm_sparse.files.records import Document, Rejected

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
    with pytest.raises(DataError, match=r"c\.csv:2: another number of fields than the header has"):
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

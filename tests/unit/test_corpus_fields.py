"""The text of a record is the whole of what it says it is: what is left out of it is refused or told."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.irds import entry_text
from pyserini_llm_sparse.files.records import Document, Record, RecordProblem, Rejected
from pyserini_llm_sparse.training.data.sources import read_texts


def read(path: Path, *records: dict[str, Any], fields: list[str] | None = None) -> list[Record]:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return list(read_corpus(path, fields))


@pytest.mark.parametrize("name", ["segment", "body", "abstract", "passage", "headings", "wiki_text", "Abstract"])
def test_a_title_beside_a_text_of_another_name_is_refused_with_the_option_that_names_both(
    name: str, tmp_path: Path
) -> None:
    record = {"docid": "1", "url": "http://a", "title": "Cats", name: "Felines prefer fish."}
    (bad,) = read(tmp_path / "c.jsonl", record)
    assert isinstance(bad, Rejected)
    assert f"c.jsonl:1: title without text, beside {name} (id '1'): " in bad.message()
    assert f"--fields title,{name}" in bad.message()
    (good,) = read(tmp_path / "c.jsonl", record, fields=["title", name])
    assert isinstance(good, Document)
    assert good.text == "Cats Felines prefer fish."


def test_texts_in_lists_and_objects_are_texts_beside_a_title_too(tmp_path: Path) -> None:
    for value in (["A paragraph."], [{"text": "A paragraph."}], {"text": "A paragraph."}):
        (bad,) = read(tmp_path / "c.jsonl", {"id": "1", "title": "Cats", "sections": value})
        assert isinstance(bad, Rejected)
        assert "beside sections" in bad.message()


def test_a_title_with_what_is_said_about_it_is_a_text(tmp_path: Path) -> None:
    record = {"id": "1", "title": "Cats", "url": "http://a", "author": "B", "metadata": {"year": 1}, "body": "", "n": 3}
    (good,) = read(tmp_path / "c.jsonl", record)
    assert isinstance(good, Document)
    assert good.text == "Cats"


def test_texts_that_are_left_out_are_told_once_with_their_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.jsonl"
    read(
        path,
        {"id": "1", "title": "A", "contents": "A x"},
        {"id": "2", "title": "B", "contents": "y"},
        {"id": "3", "title": "C", "contents": "z"},
        {"id": "4", "text": "u", "abstract": "v", "url": "http://a"},
        {"id": "5", "title": "T", "text": "", "body": "v"},
    )
    told = "a field {} that is not in the text; name all fields with --fields if it should be"
    assert caplog.messages == [
        f"{path}: 2 records have {told.format('title')}",
        f"{path}: 1 record has {told.format('abstract')}",
        f"{path}: 1 record has {told.format('body')}",
    ]
    caplog.clear()
    read(path, {"id": "2", "title": "B", "contents": "y"}, fields=["contents"])
    assert caplog.messages == []


def test_texts_for_adaptation_are_whole_as_well(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "1", "title": "Cats", "body": "Felines"}\n', encoding="utf-8")
    with pytest.raises(Exception, match=r"c\.jsonl:1: title without text, beside body"):
        list(read_texts(str(path)))


def test_passages_are_not_named_by_their_document(tmp_path: Path) -> None:
    (bad,) = read(tmp_path / "c.jsonl", {"pid": "p1", "docid": "d1", "text": "x"})
    assert isinstance(bad, Rejected)
    assert "both docid and pid: parts of one document would share its id; rename pid to id" in bad.message()


def test_an_id_that_lucene_cannot_keep_is_refused(tmp_path: Path) -> None:
    good, bad, also_bad = read(
        tmp_path / "c.jsonl", *({"id": name, "text": "x"} for name in ("i" * 32_766, "i" * 32_767, "ü" * 16_384))
    )
    assert isinstance(good, Document)
    for record in (bad, also_bad):
        assert isinstance(record, Rejected)
        assert "id is longer than Lucene's limit of 32,766 bytes" in record.message()
        assert len(record.message()) < 400


def types_of_ir_datasets(key: str) -> Iterator[type[Any]]:
    """Yield each named tuple of ir_datasets whose first field is an id of documents, or of queries."""
    ir_datasets = pytest.importorskip("ir_datasets", reason="ir_datasets is not installed")
    found = {}
    for room in ("formats", "datasets"):
        package = importlib.import_module(f"{ir_datasets.__name__}.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and issubclass(value, tuple) and getattr(value, "_fields", ())[:1] == (key,):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    yield from (found[name] for name in sorted(found))


def value_of(name: str, kind: Any, missing: bool) -> Any:
    """Return a value of a field's type whose words name the field; if it may be missing, None for a text."""
    if typing.get_origin(kind) in (list, tuple, typing.Union):
        inner = typing.get_args(kind)
        one = value_of(name, inner[0], missing) if inner else f"word{name}"
        return one if typing.get_origin(kind) is typing.Union else [one]
    if inspect.isclass(kind) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind)
        return kind(*(value_of(f"{name}{field}", hints[field], missing) for field in kind._fields))
    if kind is bytes:
        return f"<html><body>word{name}</body></html>".encode()
    return {int: 1, float: 1.0, bool: False}.get(kind, None if missing else f"word{name}")


def entry_of(kind: type[Any], missing: str = "") -> Any:
    hints = typing.get_type_hints(kind)
    return kind(*(value_of(name, hints.get(name, str), name == missing) for name in kind._fields))  # type: ignore[attr-defined]


def words(text: str) -> set[str]:
    return set(re.findall(r"word\w+", text))


@pytest.mark.filterwarnings("ignore")  # ir_datasets' own
@pytest.mark.parametrize("key", ["doc_id", "query_id"])
def test_every_type_of_ir_datasets_gives_its_whole_text_or_is_refused(key: str) -> None:
    whole, refused = 0, set()
    for kind in types_of_ir_datasets(key):
        entry = entry_of(kind)
        if hasattr(kind, "default_text"):
            assert words(entry_text(entry, None, "1")) == words(entry.default_text()) != set(), kind
            assert "None" not in entry_text(entry_of(kind, "title"), None, "1"), kind
            whole += 1
        elif key == "doc_id" and {"title", "text"} & set(kind._fields):  # type: ignore[attr-defined]
            with pytest.raises(RecordProblem, match="title without text"):
                entry_text(entry, None, "1")
            refused.add(kind.__name__)
    assert whole >= (45 if key == "doc_id" else 20)
    assert refused == ({"ClinicalTrialsDoc"} if key == "doc_id" else set())


@pytest.mark.filterwarnings("ignore")
def test_title_and_text_of_ir_datasets_are_joined_as_those_of_json() -> None:
    beir = pytest.importorskip("ir_datasets.datasets.beir", reason="ir_datasets is not installed")
    assert entry_text(beir.BeirTitleDoc("1", "b\n", " A "), None, "1") == "A b"
    assert entry_text(beir.BeirTitleDoc("1", "b", None), None, "1") == "b"

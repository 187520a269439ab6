"""What ir_datasets raises ends in one line that names the dataset, the cause and a remedy."""

from __future__ import annotations

import errno
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyserini_llm_sparse.errors import DataError, LlmSparseError, PrerequisiteError, ResourceError
from pyserini_llm_sparse.files.corpus import count_records, read_corpus
from pyserini_llm_sparse.files.irds import irds_entries
from pyserini_llm_sparse.files.topics import read_topics
from pyserini_llm_sparse.training.data.sources import read_texts

NAME = "irds:beir/scifact/test"


def foreign(module: str, name: str, base: type[Exception] = OSError) -> type[Exception]:
    return type(name, (base,), {"__module__": module})


OFFLINE = foreign("requests.exceptions", "ConnectionError")("Max retries exceeded with url: /scifact.zip")
HASH = foreign("ir_datasets.util.hash", "HashVerificationError")("Expected md5 hash to be 1 but got 2")
CASES: list[tuple[Exception, type[LlmSparseError], str]] = [
    (OFFLINE, ResourceError, "cannot be downloaded: Max retries exceeded"),
    (RuntimeError("All download sources failed", [("a", OSError("x")), ("b", OFFLINE)]), ResourceError,
     "cannot be downloaded: Max retries"),
    (TimeoutError("timed out"), ResourceError, "cannot be downloaded: timed out; check the network"),
    (FileNotFoundError("/home/u/.ir_datasets/nyt/nyt.tgz"), ResourceError, "put there by hand, for it needs a licence"),
    (OSError("/d/docs does not exist.\n\nTo obtain it, sign the\nagreement."), ResourceError,
     "or a download of its own: /d/docs does not exist. To obtain it, sign the agreement.; see https"),
    (RuntimeError("docs not found. Please either:\n(1) Link docs\n"), ResourceError,
     "ir_datasets cannot give it: docs not found. Please either: (1) Link docs; see https://ir-datasets.com/beir.html"),
    (EOFError("EOF when reading a line"), ResourceError, "asks for a name and a password"),
    (ImportError("This dataset requires warc. Run 'pip install ir_datasets[warc]'"), PrerequisiteError,
     "needs is missing: This dataset requires warc. Run 'pip install"),
    (HASH, DataError, "damaged or cut off: HashVerificationError: Expected md5"),
    (EOFError("Compressed file ended before the end-of-stream marker"), DataError, "damaged or cut off: EOFError"),
    (gzip.BadGzipFile("Not a gzipped file"), DataError, "damaged or cut off: BadGzipFile"),
    (json.JSONDecodeError("Expecting value", "", 0), DataError, "remove the dataset's folder in"),
    (IndexError("list index out of range"), DataError, "damaged or cut off: IndexError"),
    (KeyError("doc_id"), DataError, "damaged or cut off: KeyError"),
    (OSError(errno.ENOSPC, "No space left on device"), ResourceError, "free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "/d"), ResourceError, "cannot be read or stored"),
]  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module in the place of ir_datasets that has one dataset, which raises an error at a place."""

    def put(error: Exception, place: str) -> None:
        def entries(attribute: str) -> Callable[[], Iterator[Any]]:
            def iterate() -> Iterator[Any]:
                yield SimpleNamespace(doc_id="1", query_id="1", default_text=lambda: "a", _asdict=lambda: {"text": "a"})
                raise error

            def fail() -> Iterator[Any]:
                raise error

            return iterate if place == "later" else fail

        def load(name: str) -> Any:
            if place == "load":
                raise error
            return SimpleNamespace(
                has_docs=lambda: True, has_queries=lambda: True, has_qrels=lambda: False, docs_count=entries("docs"),
                docs_iter=entries("docs"), queries_iter=entries("queries"),
            )  # fmt: skip

        monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load=load))

    return put


@pytest.mark.parametrize(("error", "kind", "said"), CASES, ids=[type(error).__name__ for error, _, _ in CASES])
@pytest.mark.parametrize("place", ["load", "first", "later"])
def test_each_error_is_one_line_wherever_it_comes(
    place: str, error: Exception, kind: type[LlmSparseError], said: str, stand_in: Callable[..., None]
) -> None:
    if place == "load" and isinstance(error, KeyError):
        kind, said = ResourceError, "unknown dataset: not a name of ir_datasets"
    stand_in(error, place)
    readers: list[Callable[[], Any]] = [
        lambda: list(read_corpus(NAME)), lambda: read_topics(NAME), lambda: list(read_texts(NAME)),
    ]  # fmt: skip
    for read in [*readers, lambda: count_records(NAME)] if place != "later" else readers:
        with pytest.raises(kind) as raised:
            read()
        assert type(raised.value) is kind
        message = str(raised.value)
        assert message.startswith(f"{NAME}: ")
        assert said in message
        assert len(message.splitlines()) == 1


def test_a_dataset_without_a_part_is_named(stand_in: Callable[..., None]) -> None:
    stand_in(OSError(), "first")
    with pytest.raises(ResourceError, match=r"has no judgements: .*; name a part with judgements"):
        list(irds_entries(NAME, "qrels"))


def test_ir_datasets_that_cannot_be_imported_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "ir_datasets":
                raise ModuleNotFoundError("No module named 'ijson'", name="ijson")

    monkeypatch.delitem(sys.modules, "ir_datasets", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(PrerequisiteError, match="a package that ir_datasets needs is missing: No module named 'ijson'"):
        list(read_corpus(NAME))

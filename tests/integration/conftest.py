"""One small collection that all claims about whole commands are made on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import checkpoint
from tests.commands import Pyserini

__all__ = ["Pyserini", "read_run", "read_vectors"]

SUBJECTS = (
    "wind and wings", "a doctor at night", "rivers in Köln", "two words for 東京", "cells that beat", "old bridges",
    "lakes far away", "a quiet station", "models of weight", "planes over cities",
)  # fmt: skip


@pytest.fixture(scope="session")
def line() -> int:
    """The line of Pyserini that is installed: 1 or 2."""
    from importlib.metadata import version

    return int(version("pyserini").split(".")[0])


@pytest.fixture(scope="session")
def model(pyserini: Pyserini) -> Path:
    """A small causal language model with our spec, in a folder whose name does not say what it is."""
    return Path(shutil.copytree(checkpoint("llama_causal"), pyserini.folder / "model"))


@pytest.fixture(scope="session")
def documents() -> list[dict[str, str]]:
    """Thirty documents: some without a title, one without anything."""
    titled = [
        {"id": f"d{number}", "title": SUBJECTS[number % 10].title() if number % 3 else "", "text": text}
        for number in range(29)
        for text in [f"{SUBJECTS[(number * 7) % 10]}, {SUBJECTS[(number * 3 + 1) % 10]}: number {number}."]
    ]
    return [*titled, {"id": "nothing", "title": "", "text": ""}]


@pytest.fixture(scope="session")
def corpus(pyserini: Pyserini, documents: list[dict[str, str]]) -> Path:
    """The documents as Pyserini's encoder reads them."""
    folder = pyserini.folder / "corpus"
    folder.mkdir()
    lines = [json.dumps(document) for document in documents]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def queries() -> dict[str, str]:
    """A handful of queries."""
    return {"1": "wings in the wind", "2": "Köln", "3": "a night without a doctor", "4": "zzz?"}


@pytest.fixture(scope="session")
def topics(pyserini: Pyserini, queries: dict[str, str]) -> Path:
    """The queries as a topics file."""
    path = pyserini.folder / "topics.tsv"
    path.write_text("".join(f"{name}\t{text}\n" for name, text in queries.items()), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def vectors(pyserini: Pyserini, corpus: Path, model: Path) -> Path:
    """The documents, encoded by Pyserini's command."""
    folder = pyserini.folder / "vectors"
    pyserini.module(
        "pyserini.encode",
        "input", "--corpus", corpus, "--fields", "title", "text",
        "output", "--embeddings", folder,
        "encoder", "--encoder", f"csplade:{model}", "--fields", "title", "text", "--batch-size", 8,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def make_index(pyserini: Pyserini) -> Callable[[Path, str], Path]:
    """Indexes a folder of vectors by Pyserini's command."""

    def make(source: Path, name: str) -> Path:
        pyserini.module(
            "pyserini.index.lucene", "--collection", "JsonVectorCollection", "--input", source,
            "--index", pyserini.folder / name, "--generator", "DefaultLuceneDocumentGenerator",
            "--threads", 1, "--impact", "--pretokenized",
        )  # fmt: skip
        return pyserini.folder / name

    return make


@pytest.fixture(scope="session")
def index(make_index: Callable[[Path, str], Path], vectors: Path) -> Path:
    """The vectors, indexed by Pyserini's command."""
    return make_index(vectors, "index")


@pytest.fixture
def search(pyserini: Pyserini, topics: Path, tmp_path: Path) -> Callable[..., dict[str, list[tuple[str, float]]]]:
    """Searches by Pyserini's command; gives each query's documents and scores, best first."""

    def run(*arguments: object, topics: Path = topics, **variables: str) -> dict[str, list[tuple[str, float]]]:
        output = tmp_path / f"run{len(list(tmp_path.iterdir()))}.txt"
        pyserini.module(
            "pyserini.search.lucene", "--impact", "--hits", 1000, "--topics", topics, "--output", output,
            *arguments, **variables,
        )  # fmt: skip
        return read_run(output)

    return run


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Read a TREC run."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in path.read_text(encoding="utf-8").splitlines():
        query, _, document, _, score, _ = row.split()
        found.setdefault(query, []).append((document, float(score)))
    return found


def read_vectors(folder: Path) -> dict[str, dict[str, int]]:
    """Read the vectors that Pyserini's encoder wrote."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for row in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(row)
            assert record["id"] not in found
            found[record["id"]] = record["vector"]
    return found

"""An interpreter with the plugin's start-up files in place, and one small collection that all claims are made on."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints import checkpoint
from tests.integration.warm import WarmInterpreter

START_UP_FILES = ("_pyserini_llm_sparse_boot.py", "pyserini_llm_sparse.pth", "pyserini_llm_sparse.start")
SUBJECTS = (
    "wind and wings", "a doctor at night", "rivers in Köln", "two words for 東京", "cells that beat", "old bridges",
    "lakes far away", "a quiet station", "models of weight", "planes over cities",
)  # fmt: skip


@dataclass(frozen=True)
class Pyserini:
    """Runs commands in a process of their own, as a user would."""

    python: Path
    folder: Path
    warm: WarmInterpreter | None = None

    def __call__(self, *arguments: object, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``python`` with arguments."""
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=user_environment() | variables, capture_output=True, text=True,
            encoding="utf-8", check=False,
        )  # fmt: skip
        return _checked(done) if check else done

    def module(self, name: str, *arguments: object, check: bool = True, **variables: str):
        """Run ``python -m name``. Variables may be of those that count at the start: then it is a new interpreter's."""
        if self.warm is None or variables:
            return self("-m", name, *arguments, check=check, **variables)
        command = [name, *map(str, arguments)]
        done = subprocess.CompletedProcess(command, *self.warm.run(command, self.folder, user_environment()))
        return _checked(done) if check else done


def user_environment() -> dict[str, str]:
    """The environment, in which nothing names Java, a path or a key."""
    unnamed = ("PYTHONPATH", "JAVA_HOME", "JDK_HOME", "JRE_HOME", "JVM_PATH", "OPENAI_API_KEY")
    kept = {name: value for name, value in os.environ.items() if name not in unnamed}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, f"{done.args}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def _with_start_up_files(folder: Path, root: Path) -> Path:
    """An interpreter that has all that this one has, the checkout, and the start-up files as an installation has."""
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    for name in START_UP_FILES:
        shutil.copy(root / name, site)
    # Names that sort behind: the start-up file must not need what these lines add.
    lines = [str(root), *dict.fromkeys(path for path in sys.path if Path(path).name == "site-packages")]
    (site / "zz_checkout.pth").write_text("\n".join(lines), encoding="utf-8")
    return python


@pytest.fixture(scope="session")
def pyserini(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Pyserini]:
    """Pyserini's commands with the plugin: the installed one where it is installed, otherwise the checkout."""
    folder = tmp_path_factory.mktemp("pyserini")
    if importlib.util.find_spec("pyserini") is None:
        pytest.skip("Pyserini is not installed")
    installed = (Path(sysconfig.get_path("purelib")) / "pyserini_llm_sparse.pth").is_file()
    python = Path(sys.executable) if installed else _with_start_up_files(folder / "environment", root)
    if not hasattr(os, "fork"):
        yield Pyserini(python, folder)
        return
    warm = WarmInterpreter(python, folder, user_environment())
    yield Pyserini(python, folder, warm)
    warm.close()


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

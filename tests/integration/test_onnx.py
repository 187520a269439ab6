"""An ONNX export takes a model's place in the commands, Pyserini's and ours, from the documents to the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import checkpoint
from tests.commands import Pyserini
from tests.exports import PRECISIONS
from tests.integration.conftest import read_run, read_vectors

pytestmark = pytest.mark.end_to_end

Run = dict[str, list[tuple[str, float]]]
MODEL = "qwen3_bidirectional_tied"


@pytest.fixture(scope="module")
def exports(pyserini: Pyserini) -> dict[str, Path]:
    """Exports made by the command, in folders whose names do not say what they are."""
    made = {}
    for precision in PRECISIONS:
        made[precision] = pyserini.folder / f"small-{precision}"
        done = pyserini.module(
            "pyserini_llm_sparse", "export", "--model", checkpoint(MODEL), "--precision", precision, "--output",
            made[precision], "--json",
        )  # fmt: skip
        assert json.loads(done.stdout)["precision"] == precision
        assert "rank correlation" in done.stderr
    return made


@pytest.fixture(scope="module")
def encode(pyserini: Pyserini, corpus: Path) -> Callable[[Path, str], Path]:
    """Encodes the documents by Pyserini's command."""

    def run(encoder: Path, name: str) -> Path:
        pyserini.module(
            "pyserini.encode",
            "input", "--corpus", corpus, "--fields", "title", "text",
            "output", "--embeddings", pyserini.folder / name,
            "encoder", "--encoder", encoder, "--encoder-class", "csplade", "--fields", "title", "text",
            "--batch-size", 8, "--device", "cpu",
        )  # fmt: skip
        return pyserini.folder / name

    return run


@pytest.fixture(scope="module")
def torch_index(encode: Callable[[Path, str], Path], make_index: Callable[[Path, str], Path]) -> Path:
    return make_index(encode(checkpoint(MODEL), "torch_vectors"), "torch_index")


@pytest.fixture
def torch_run(torch_index: Path, search: Callable[..., Run]) -> Run:
    return search("--index", torch_index, "--encoder", checkpoint(MODEL))


def close(found: Run, expected: Run, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for query, hits in expected.items():
        scores = dict(found[query])
        assert scores.keys() == dict(hits).keys()
        assert all(abs(scores[document] - score) <= tolerance * score for document, score in hits)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.001), ("int8", 0.1)])
def test_pyserini_s_commands_find_what_they_find_with_torch(
    precision: str, tolerance: float, exports: dict[str, Path], encode: Callable[[Path, str], Path],
    make_index: Callable[[Path, str], Path], search: Callable[..., Run], torch_run: Run,
) -> None:  # fmt: skip
    index = make_index(encode(exports[precision], f"vectors_{precision}"), f"index_{precision}")
    close(search("--index", index, "--encoder", exports[precision]), torch_run, tolerance)


def test_an_export_searches_the_index_of_its_model(
    exports: dict[str, Path], torch_index: Path, search: Callable[..., Run], torch_run: Run
) -> None:
    close(search("--index", torch_index, "--encoder", f"csplade:{exports['fp32']}"), torch_run, 0.001)


def test_our_own_commands_take_it(pyserini: Pyserini, exports: dict[str, Path], corpus: Path, topics: Path) -> None:
    folder, encoder = pyserini.folder, exports["int8"]
    pyserini.module(
        "pyserini_llm_sparse", "encode", "--encoder", encoder, "--corpus", corpus, "--output", folder / "own_onnx",
        "--fields", "title,text", "--on-error", "skip", "--threads", 1, check=False,
    )  # fmt: skip
    assert len(read_vectors(folder / "own_onnx")) == 29
    manifest = json.loads((folder / "own_onnx.manifest.json").read_text(encoding="utf-8"))
    assert manifest["identity"]["dtype"] == "onnx int8"
    pyserini.module(
        "pyserini_llm_sparse", "index", "--input", folder / "own_onnx", "--index", folder / "own_onnx_index"
    )
    pyserini.module(
        "pyserini_llm_sparse", "search", "--encoder", encoder, "--index", folder / "own_onnx_index", "--topics", topics,
        "--output", folder / "own_onnx_run.txt",
    )  # fmt: skip
    assert len(read_run(folder / "own_onnx_run.txt")) == 4


def test_a_precision_in_the_commands_exports_once(
    pyserini: Pyserini, exports: dict[str, Path], encode: Callable[[Path, str], Path], torch_index: Path, corpus: Path,
    topics: Path,
) -> None:  # fmt: skip
    cache = {"PYSERINI_LLM_SPARSE_CACHE": str(pyserini.folder / "cache")}
    model, expected = checkpoint(MODEL), read_vectors(encode(exports["int8"], "int8_by_folder"))
    told = []
    for name in ("int8_first", "int8_second"):
        done = pyserini.module(
            "pyserini.encode",
            "input", "--corpus", corpus, "--fields", "title", "text",
            "output", "--embeddings", pyserini.folder / name,
            "encoder", "--encoder", f"csplade:{model}", "--fields", "title", "text", "--batch-size", 8,
            "--precision", "int8",
            **cache,
        )  # fmt: skip
        told.append("exporting to" in done.stderr)
        assert read_vectors(pyserini.folder / name) == expected
    assert told == [True, False]
    pyserini.module(
        "pyserini.search.lucene", "--impact", "--index", torch_index, "--topics", topics, "--encoder",
        f"csplade:{model}", "--precision", "fp32", "--output", pyserini.folder / "fp32_run.txt", **cache,
    )  # fmt: skip
    files = []
    for number, options in enumerate((["--encoder", model, "--precision", "fp32"], ["--encoder", exports["fp32"]])):
        files.append(pyserini.folder / f"queries_{number}.tsv")
        pyserini.module(
            "pyserini.encode.query", "--topics", topics, "--encoder-class", "csplade", *options, "--output", files[-1],
            **cache,
        )  # fmt: skip
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len([path for path in (pyserini.folder / "cache" / "exports").iterdir() if path.is_dir()]) == 2
    assert len(read_run(pyserini.folder / "fp32_run.txt")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8", "--dtype", "bfloat16"], "precision int8 and dtype bfloat16"),
        (["--precision", "int8", "--device", "mps"], "device mps: ONNX exports run on cpu, cuda"),
        (
            ["--encoder", f"{checkpoint(MODEL)},precision=int3"],
            "precision int3: unknown; choose fp32, fp16, bf16, int8 or int4",
        ),
    ],
)
def test_a_precision_that_cannot_be_is_one_line(pyserini: Pyserini, arguments: list[str], message: str) -> None:
    done = pyserini.module("pyserini_llm_sparse", "explain", "--text", "a text", *arguments, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1

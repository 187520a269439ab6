"""The cache of exports: an entry that fails its check is made again, by one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.files.cache import CACHE_VARIABLE
from tests.checkpoints import checkpoint

NAME = "llama_causal_tied"


def load() -> SparseEncoder:
    return SparseEncoder.load(str(checkpoint(NAME)), precision="fp32", device="cpu")


def _cut(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes((folder / "model.onnx.data").read_bytes()[:-100])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut weights": _cut,
    "no description": lambda folder: (folder / "onnx_export.json").unlink(),
    "no graph": lambda folder: (folder / "model.onnx").unlink(),
    "half a description": lambda folder: (folder / "onnx_export.json").write_text("{", encoding="utf-8") and None,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_made_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="an export is made and loaded")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    folder = load().loader.prepare()
    left = folder.parent / f".{folder.name}.abcdefgh"
    left.mkdir()
    expected = load().document_impacts(["a wing"])
    DAMAGE[name](folder)
    assert load().document_impacts(["a wing"]) == expected
    assert not left.exists()
    made = (folder / "model.onnx").stat().st_mtime_ns
    load().loader.prepare()
    assert (folder / "model.onnx").stat().st_mtime_ns == made


def test_processes_that_need_one_entry_make_it_once(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="an export is made and loaded")
    code = (
        "import logging, sys; logging.basicConfig(); from pyserini_llm_sparse.encoder import SparseEncoder; "
        "SparseEncoder.load(sys.argv[1], precision='fp32', device='cpu').loader.prepare()"
    )
    environment = {**os.environ, CACHE_VARIABLE: str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(checkpoint(NAME))]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert "".join(said).count("exporting to") == 1

"""When Pyserini is not as the plugin knows it, only a command that asks for csplade ends, and says how to go on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.commands import Pyserini

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Pyserini whose query encoding command has its function renamed; everything else is linked."""
    spec = importlib.util.find_spec("pyserini")
    assert spec is not None
    assert spec.submodule_search_locations
    real = Path(spec.submodule_search_locations[0])
    folder = tmp_path_factory.mktemp("changed")
    (folder / "pyserini" / "encode").mkdir(parents=True)
    for source in (real, real / "encode"):
        for path in source.iterdir():
            target = folder / "pyserini" / path.relative_to(real)
            if path.name not in ("__pycache__", "query.py") and not target.exists():
                target.symlink_to(path)
    text = (real / "encode" / "query.py").read_text(encoding="utf-8")
    assert "init_encoder" in text
    renamed = text.replace("init_encoder", "make_encoder")
    (folder / "pyserini" / "encode" / "query.py").write_text(renamed, encoding="utf-8")
    return folder


def test_a_changed_pyserini_is_named_with_a_way_out(pyserini: Pyserini, changed: Path, topics: Path) -> None:
    done = pyserini.module(
        "pyserini.encode.query", "--topics", topics, "--encoder", "csplade", "--output", "none",
        check=False, PYTHONPATH=str(changed),
    )  # fmt: skip
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert "pyserini.encode.query" in last
    assert "does not fit Pyserini" in last
    assert "init_encoder" in last
    assert "python -m pyserini_llm_sparse encode-queries" in last


def test_a_changed_pyserini_works_for_all_others(pyserini: Pyserini, changed: Path) -> None:
    done = pyserini.module("pyserini.encode.query", "--help", PYTHONPATH=str(changed))
    assert "--encoder" in done.stdout
    assert "does not fit" not in done.stderr

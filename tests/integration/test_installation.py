"""A built wheel brings the start-up files, and uninstalling takes them away again."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("pip", "setuptools")),
        reason="building a wheel needs pip and setuptools in this environment",
    ),
]

START_UP_FILES = {"_pyserini_llm_sparse_boot.py", "pyserini_llm_sparse.pth", "pyserini_llm_sparse.start"}


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    hidden = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "examples", "models")
    shutil.copytree(root, copy, ignore=hidden)
    (copy / "pyserini_llm_sparse" / "models" / "csplade").mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, copy], check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_records_the_start_up_files_at_its_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (record,) = (name for name in names if name.endswith("/RECORD"))
        recorded = {row.split(",")[0] for row in opened.read(record).decode().splitlines()}
    assert names >= START_UP_FILES
    assert recorded >= START_UP_FILES


def test_the_wheel_has_every_file_that_the_package_reads(wheel: Path, root: Path) -> None:
    package = root / "pyserini_llm_sparse"
    wanted = {
        path.relative_to(root).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and package / "models" not in path.parents
    }
    with zipfile.ZipFile(wheel) as opened:
        assert not wanted - set(opened.namelist())


def test_installing_starts_the_hook_and_uninstalling_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    venv.EnvBuilder(with_pip=False, symlinks=True).create(tmp_path / "environment")
    python = tmp_path / "environment" / "bin" / "python"
    if not python.exists():
        python = tmp_path / "environment" / "Scripts" / "python.exe"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(python)]
    code = "import sys; print(*(getattr(finder, '__name__', '') for finder in sys.meta_path))"

    def finders() -> str:
        return subprocess.check_output([python, "-c", code], text=True, cwd=tmp_path)

    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    assert "PyseriniTrigger" in finders()
    subprocess.run([*pip, "uninstall", "-y", "pyserini-llm-sparse"], check=True, capture_output=True)
    assert "PyseriniTrigger" not in finders()
    assert not [path for path in (tmp_path / "environment").rglob("*pyserini_llm_sparse*") if path.is_file()]

"""What all tests share: quiet libraries, offline loading, and the path of the real data where it exists."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyserini_llm_sparse.files.cache import CACHE_VARIABLE
from tests.commands import Pyserini, interpreter, user_environment
from tests.warm import WarmPython

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")
if CACHE_VARIABLE not in os.environ:  # what a user keeps is neither taken nor added to
    os.environ[CACHE_VARIABLE] = tempfile.mkdtemp(prefix="pyserini-llm-sparse-cache-")
    atexit.register(shutil.rmtree, os.environ[CACHE_VARIABLE], ignore_errors=True)

with suppress(ImportError):  # not in the environment of optimum's exporter
    from hypothesis import HealthCheck, settings

    # How long an example takes is the machine's affair; tests that hang are ended by pytest-timeout.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test collections; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("PYSERINI_LLM_SPARSE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "scifact").is_dir():
        pytest.skip(f"no test collections in {folder}; set PYSERINI_LLM_SPARSE_DATA to a folder that holds them")
    return folder


@pytest.fixture(scope="session")
def pyserini(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Pyserini]:
    """Commands with Pyserini and the plugin: the installed one where it is installed, otherwise the checkout."""
    folder = tmp_path_factory.mktemp("pyserini")
    if importlib.util.find_spec("pyserini") is None:
        pytest.skip("Pyserini is not installed")
    python = interpreter(folder / "environment", root)
    if not hasattr(os, "fork"):
        yield Pyserini(python, folder, python)
        return
    warm = WarmPython(python, user_environment())
    yield Pyserini(python, folder, warm.path)
    warm.close()


@pytest.fixture(scope="module")
def forked_children(pyserini: Pyserini) -> Iterator[None]:
    """Commands that this process itself starts are forks, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(pyserini.warm))
        yield

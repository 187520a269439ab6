"""Importing the package is cheap and has no effect."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyserini_llm_sparse

PROGRAM = """
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
import pyserini_llm_sparse
own, modules = time.perf_counter() - start, sorted(set(sys.modules) - before)
start = time.perf_counter()
import asyncio
print(json.dumps({"seconds": own, "of_asyncio": time.perf_counter() - start, "modules": modules}))
"""


def test_importing_costs_milliseconds_and_no_library(root: Path) -> None:
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", PROGRAM], cwd=root)) for _ in range(3)]
    assert not {"torch", "transformers", "numpy", "pydantic", "pyserini"} & set(runs[0]["modules"])
    # On any machine: less than a module of the standard library.
    assert min(run["seconds"] for run in runs) < min(run["of_asyncio"] for run in runs)


def test_what_is_to_be_pasted_installs_from_the_clone_for_the_package_is_on_no_index(root: Path) -> None:
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    installing = [line for line in lines if line.startswith("pip install")]
    assert "pip install ." in installing and not [line for line in installing if "pyserini-llm-sparse" in line]
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg", encoding="utf-8")
    extras = settings["options.extras_require"]
    named = {found for line in installing for found in re.findall(r"\.\[(\w+)\]", line)}
    assert named and named <= extras.keys()


def test_public_names_exist() -> None:
    for name in pyserini_llm_sparse.__all__:
        assert getattr(pyserini_llm_sparse, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pyserini_llm_sparse.nothing  # noqa: B018

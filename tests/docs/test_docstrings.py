"""Examples in docstrings give what they show, and the names in them lead somewhere."""

from __future__ import annotations

import ast
import doctest
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "pyserini_llm_sparse").rglob("*.py"))
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in MODULES
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_give_what_they_show(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.attempted and not found.failed


def test_names_of_our_modules_in_docstrings_lead_somewhere() -> None:
    """`module.name`, with as much of the module's dotted name as it takes."""
    defined: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        names = set(re.findall(r"^(?:class |def |    def )?(\w+)", path.read_text(encoding="utf-8"), re.M))
        for start in range(len(parts)):
            defined[".".join(parts[start:])] |= names
    wrong = [
        f"{path}: `{module}.{name}`"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        for module, name in re.findall(r"(?<!`)`([a-z_.]+)\.(\w+)`(?!`)", ast.get_docstring(node) or "")
        if not _is_something_else(module, name)
        and f"{module}.{name}" not in defined
        and name not in defined.get(module, ())
    ]
    assert not wrong, "\n".join(wrong)


def _is_something_else(module: str, name: str) -> bool:
    libraries = {"accelerate", "pyserini", "tokenizers", "torch", "transformers", "onnx_ir"}
    return module.split(".")[0] in libraries or name in ("json", "jsonl")

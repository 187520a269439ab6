"""The floor plan of docs/architecture.md holds: imports point downwards only."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "pyserini_llm_sparse"
FLOORS = {
    "cores": 0, "errors": 0, "spec": 0, "terms": 0, "vectors": 0, "formats": 0, "measures": 0, "versions": 0,
    "tokenization": 1, "backbone": 1, "head": 1, "checkpoint": 1, "catalog": 1,
    "text_tokenizer": 1, "fingerprint": 1, "query_terms": 1, "query_cache": 1, "devices": 1, "engine": 1, "onnx": 1,
    "older_transformers": 1, "masked_backbone": 1, "adapters": 1, "checkpoint_spec": 1,
    "encoder": 2, "explanations": 2, "jobs": 2,
    "plugin": 3, "pyserini": 3, "lucene": 3, "jdk": 3, "training": 3,
    "regressions": 4, "cli": 4, "__main__": 4,
}  # fmt: skip
# Modules that stand higher than their room: an export is verified as encoders are used.
HIGHER = {"onnx.export": 2, "onnx.attempts": 2, "onnx.verification": 2, "onnx.cache": 2}
# Whose internals each room may touch, by the module that it imports.
ALONE = {"jnius": {"lucene", "jdk", "plugin"}, "pyserini": {"plugin", "lucene", "pyserini", "cli", "regressions"},
         "onnx": {"onnx"}, "onnxruntime": {"onnx", "cli"}, "optimum": {"onnx"}}  # fmt: skip


def modules(root: Path) -> list[Path]:
    return sorted((root / PACKAGE).rglob("*.py"))


def room(path: Path, root: Path) -> str:
    return path.relative_to(root / PACKAGE).parts[0].removesuffix(".py")


def floor(parts: list[str]) -> int:
    """The floor of a module, by the parts of its name after the package's."""
    return HIGHER.get(".".join(parts[:2]), FLOORS[parts[0]])


def imported(path: Path) -> list[tuple[str, int]]:
    """Each imported module and the line, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(name.name, node.lineno) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [(f"{node.module}.{name.name}", node.lineno) for name in node.names]
    return found


def test_every_module_belongs_to_a_floor(root: Path) -> None:
    assert {room(path, root) for path in modules(root)} - {"__init__"} == set(FLOORS)


def test_imports_point_downwards(root: Path) -> None:
    wrong = []
    for path in modules(root):
        own = list(path.relative_to(root / PACKAGE).with_suffix("").parts)
        if own == ["__init__"]:
            continue
        for name, line in imported(path):
            parts = name.split(".")[1:]
            if name.split(".")[0] == PACKAGE and parts and parts[0] in FLOORS and floor(parts) > floor(own):
                wrong.append(
                    f"{path}:{line}: {'.'.join(own)} (floor {floor(own)}) imports {name} (floor {floor(parts)})"
                )
    assert not wrong, "\n".join(wrong)


def test_a_model_is_loaded_without_what_exports_it(root: Path) -> None:
    """The runtime of an export knows nothing of the graph that it runs, nor of the package that wrote it."""
    runtime = {"checkpoint", "engine", "encoder", "onnx.session", "onnx.description"}
    writing = ("export", "verification", "graph", "head", "calibration", "products", "writer", "decoder",
               "attempts", "builders", "torch_builder", "optimum_builder", "traced_graph")  # fmt: skip
    for path in modules(root):
        own = ".".join(path.relative_to(root / PACKAGE).with_suffix("").parts)
        if own in runtime:
            found = {name for name, _ in imported(path)}
            assert not [name for name in found for part in writing if name.startswith(f"{PACKAGE}.onnx.{part}")], own


@pytest.mark.parametrize("library", sorted(ALONE))
def test_a_library_with_internals_is_touched_in_its_rooms_only(library: str, root: Path) -> None:
    wrong = [
        f"{path}:{line}"
        for path in modules(root)
        if room(path, root) not in ALONE[library]
        for name, line in imported(path)
        if name.split(".")[0] == library
    ]
    assert not wrong


def test_modules_are_small_and_say_what_they_are_for(root: Path) -> None:
    for path in modules(root):
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert len(text.splitlines()) <= 400, f"{path} is too long"


def test_nothing_pickled_is_ever_loaded(root: Path) -> None:
    forbidden = re.compile(r"\b(import pickle|torch\.load|pickle\.load|allow_pickle=True)")
    assert not [path for path in modules(root) if forbidden.search(path.read_text(encoding="utf-8"))]

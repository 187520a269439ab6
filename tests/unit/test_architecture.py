"""The floor plan of docs/architecture.md holds: imports point one way along the spine, without circles.

What counts as an import: each statement, inside functions and under TYPE_CHECKING too, and each dotted name of a module
of ours in a string, for a module that is named in text is loaded as well (`python -m`, import_module).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "pyserini_llm_sparse"
# From the ground up. Rooms of one floor do not know each other.
SPINE: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "system"),
    ("children",),
    ("files",),
    ("modelling",),
    ("onnx",),
    ("encoder",),
    ("indexing",),
    ("plugin",),
    ("training", "pyserini"),
    ("regressions",),
    ("cli",),
    ("__main__",),
)
FLOORS = {room: floor for floor, rooms in enumerate(SPINE) for room in rooms}
# Whose internals each room may touch, by the module that it imports.
ALONE = {
    "jnius": {"indexing", "plugin"},
    "pyserini": {"plugin", "indexing", "pyserini", "cli", "regressions"},
    "onnx": {"onnx"},
    "onnxruntime": {"onnx", "cli"},
    "optimum": {"onnx"},
}
LONGEST = 300
# First words of a module's docstring that does not name the thing that the module holds.
NAMES_NOTHING = frozenset(
    [
        "What",
        "Where",
        "Who",
        "How",
        "Why",
        "Which",
        "Whether",
        "Says",
        "Does",
        "Puts",
        "Read",
        "Reads",
        "Write",
        "Writes",
        "Run",
        "Runs",
        "Save",
        "Saves",
        "Find",
        "Finds",
        "Finding",
        "Reading",
        "Building",
    ]
)


@cache
def modules(root: Path) -> dict[str, Path]:
    """All modules by their names, without the package's; a folder's ``__init__`` has the folder's name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each name that is imported, and each dotted name of a module of ours in a string, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{name.name}", node.lineno) for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield from ((name, node.lineno) for name in re.findall(rf"\b{PACKAGE}(?:\.\w+)+", node.value))


def _has_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node) is not None


def own(name: str, root: Path) -> str | None:
    """Return which module of ours an imported name means, None if it is none: `a.b.C` means `a.b`."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    for length in range(len(parts), 1, -1):
        if (found := ".".join(parts[1:length])) in modules(root):
            return found
    return ""


@cache
def arrows(root: Path) -> dict[str, dict[str, int]]:
    """Which modules each module imports, with the first line where it does."""
    found: dict[str, dict[str, int]] = {name: {} for name in modules(root)}
    for name, path in modules(root).items():
        for text, line in imported(path):
            target = own(text, root)
            if target is not None and target != name:
                found[name].setdefault(target, line)
    # The package's own `__init__` names the public classes, and is imported by all that is in it.
    return {name: {to: line for to, line in targets.items() if to} for name, targets in found.items() if name}


def room(module: str) -> str:
    return module.split(".")[0]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that can reach each other (Tarjan), largest first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in graph.get(node, ()):
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)


def test_every_module_belongs_to_a_room_of_the_spine(root: Path) -> None:
    assert {room(name) for name in modules(root)} - {""} == set(FLOORS)


def test_imports_point_down_the_spine(root: Path) -> None:
    wrong = [
        f"{modules(root)[name]}:{line}: {name} (floor {FLOORS[room(name)]}) imports {target} "
        f"(floor {FLOORS[room(target)]})"
        for name, targets in arrows(root).items()
        for target, line in targets.items()
        if room(target) != room(name) and FLOORS[room(target)] >= FLOORS[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle(root: Path) -> None:
    graph = {name: set(targets) for name, targets in arrows(root).items()}
    assert circles(graph) == []


def test_no_rooms_import_each_other_in_a_circle(root: Path) -> None:
    """A room is a folder without folders in it; a module beside folders is a room of its own."""
    folders = {name for name, path in modules(root).items() if path.name == "__init__.py" and name}

    def place(name: str) -> str:
        folder = name if name in folders else name.rpartition(".")[0]
        has_folders = any(other.startswith(f"{folder}.") for other in folders)
        return folder if folder and not has_folders else name

    graph: dict[str, set[str]] = {}
    for name, targets in arrows(root).items():
        graph.setdefault(place(name), set()).update(place(target) for target in targets)
    assert circles({name: targets - {name} for name, targets in graph.items()}) == []


def test_circles_are_found() -> None:
    """Of the test's own walk: a chain has none, and a loop is found from wherever it is entered."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]


def test_a_model_is_loaded_without_what_exports_it(root: Path) -> None:
    """The runtime of an export knows nothing of the graph that it runs, nor of the package that wrote it."""
    for name, targets in arrows(root).items():
        if name.startswith("onnx.runtime") or room(name) == "modelling":
            assert not [to for to in targets if to.startswith(("onnx.graph", "onnx.export"))], name


@pytest.mark.parametrize("library", sorted(ALONE))
def test_a_library_with_internals_is_touched_in_its_rooms_only(library: str, root: Path) -> None:
    wrong = [
        f"{path}:{line}"
        for name, path in modules(root).items()
        if room(name) not in ALONE[library]
        for text, line in imported(path)
        if text.split(".")[0] == library
    ]
    assert not wrong


def test_modules_are_small_and_say_what_they_hold(root: Path) -> None:
    for path in modules(root).values():
        text = path.read_text(encoding="utf-8")
        said = ast.get_docstring(ast.parse(text)) or ""
        assert said, f"{path} has no docstring"
        assert said.split()[0] not in NAMES_NOTHING, f"{path}: {said.splitlines()[0]}"
        assert len(text.splitlines()) <= LONGEST, f"{path} is too long"


def test_nothing_pickled_is_ever_loaded(root: Path) -> None:
    forbidden = re.compile(r"\b(import pickle|torch\.load|pickle\.load|allow_pickle=True)")
    assert not [path for path in modules(root).values() if forbidden.search(path.read_text(encoding="utf-8"))]

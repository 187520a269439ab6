"""The import hook: lets Pyserini's modules load as they are and patches them when they have."""

from __future__ import annotations

import ast
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

from pyserini_llm_sparse.plugin import command_line, drift
from pyserini_llm_sparse.plugin.targets import TARGETS, Target

_MARK = "__pyserini_llm_sparse__"


class PyseriniFinder(importlib.abc.MetaPathFinder):
    """Hands out Pyserini's own specs, with a loader around the real one for the modules that are patched."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the other finders' spec with our loader, None for modules that are none of our business."""
        if fullname not in TARGETS:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = PatchingLoader(spec.loader, TARGETS[fullname])
                return spec
        return None


class PatchingLoader(importlib.abc.Loader):
    """Loads a module with its real loader, with the target's patches around that."""

    def __init__(self, loader: Any, target: Target) -> None:
        self._loader = loader
        self._target = target

    def __getattr__(self, name: str) -> Any:
        """Everything else is the real loader's: resources, source, file names."""
        if name.startswith("_"):  # also keeps a half-made copy from looking for its loader for ever
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, then patch the module."""
        target = self._target
        with drift.contained(target.module, target.fallback):
            target.before()
        if target.command is None:
            with target.around(module):
                self._loader.exec_module(module)
            patch_module(module, target)
        else:
            code = self.get_code(target.module)
            if code is not None:
                exec(code, vars(module))

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the module's code; for a command, with our calls around its ``if __name__ == "__main__":``.

        ``python -m`` takes the code from here and does not call `exec_module`.
        """
        target = self._target
        with drift.contained(target.module, target.fallback):
            target.before()
        if target.command is not None:
            with drift.contained(target.module, target.fallback):
                return self._code_with_calls(fullname)
        return self._loader.get_code(fullname)

    def _code_with_calls(self, fullname: str) -> CodeType:
        source = self._loader.get_source(fullname)
        drift.expect(source, "its source is not to be had")
        tree = ast.parse(source)
        guards = [position for position, node in enumerate(tree.body) if _is_main_guard(node)]
        drift.expect(len(guards) == 1, "it has no single `if __name__ == '__main__':`")
        guard = tree.body[guards[0]]
        # Not `finally`: what is done afterwards is done only if the command came to its end.
        tree.body[guards[0] : guards[0] + 1] = [
            _call("before_command", self._target.module, guard),
            guard,
            _call("after_command", self._target.module, guard),
        ]
        return compile(tree, self._loader.get_filename(fullname), "exec", dont_inherit=True)


def before_command(module: str, namespace: dict[str, Any]) -> None:
    """Patch a command's functions after they are defined and before it runs; called from the command's code."""
    target = TARGETS[module]
    if namespace.get("__name__") == "__main__":
        command_line.start_command(module)
    with drift.contained(module, target.fallback):
        if target.command is not None:
            target.command(namespace)


def after_command(module: str, namespace: dict[str, Any]) -> None:
    """Finish what belongs to a command that has run to its end; called from the command's code."""
    target = TARGETS[module]
    if namespace.get("__name__") == "__main__" and target.finish is not None:
        with command_line.one_line_errors():
            target.finish(namespace)


def patch_module(module: ModuleType, target: Target) -> None:
    """Apply the patches of a loaded module, once."""
    if target.patch is not None and not hasattr(module, _MARK):
        with drift.contained(target.module, target.fallback):
            target.patch(module)
            setattr(module, _MARK, True)


def installed() -> bool:
    """Tell whether the finder is in place."""
    return any(isinstance(finder, PyseriniFinder) for finder in sys.meta_path)


def install() -> None:
    """Put the finder first, and patch the modules that are loaded already."""
    if installed():
        return
    sys.meta_path.insert(0, PyseriniFinder())
    if command_line.encoder_requested():
        from pyserini_llm_sparse.plugin.patches.environment import share_cores

        share_cores()
    for name, target in TARGETS.items():
        module = sys.modules.get(name)
        if module is not None:
            patch_module(module, target)
            if target.command is not None:
                before_command(name, vars(module))


def _is_main_guard(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
        and [getattr(value, "value", None) for value in node.test.comparators] == ["__main__"]
    )


def _call(function: str, module: str, place: ast.stmt) -> ast.stmt:
    """The statement that calls a function of this module, on the line of another statement."""
    statement = ast.parse(
        f"__import__({__name__!r}, fromlist=['hook']).{function}({module!r}, globals())", mode="exec"
    ).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, place)
    return statement

"""The modules of Pyserini that are patched, and by what: the whole list, for the lines 1.6 and 2.0 to 2.4."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


def _nothing() -> None:
    """What most targets do before they load."""


def _within_nothing(module: ModuleType) -> AbstractContextManager[None]:
    """What most targets are loaded within."""
    return nullcontext()


@dataclass(frozen=True)
class Target:
    """A module of Pyserini and what is done about it.

    Attributes:
        module: Its full name.
        fallback: Our own command that does the same job, named when Pyserini has changed.
        before: Called before the module's code runs.
        around: A context in which the module's code runs.
        patch: Called with the loaded module.
        command: Called with a command's globals before its ``if __name__ == "__main__":``.
        finish: Called with them after the command has run to its end.
    """

    module: str
    fallback: str
    before: Callable[[], None] = _nothing
    around: Callable[[ModuleType], AbstractContextManager[None]] = _within_nothing
    patch: Callable[[ModuleType], None] | None = None
    command: Callable[[dict[str, Any]], None] | None = None
    finish: Callable[[dict[str, Any]], None] | None = None


def _later(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported when the function is first called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), function)(*arguments)

    return call


_ENVIRONMENT = "pyserini_llm_sparse.plugin.patches.environment"
_CLASSES = "pyserini_llm_sparse.plugin.patches.classes"
_COMMANDS = "pyserini_llm_sparse.plugin.patches.commands"
_INDEXING = "pyserini_llm_sparse.plugin.patches.indexing"


TARGETS = {
    target.module: target
    for target in (
        # What every Pyserini command needs to start at all
        Target("pyserini.pyclass", "doctor", before=_later(_ENVIRONMENT, "prepare_java")),
        Target("pyserini.setup", "doctor", patch=_later(_ENVIRONMENT, "patch_classpath")),  # 1.x
        Target("pyserini._jvm", "doctor", patch=_later(_ENVIRONMENT, "patch_classpath")),  # 2.x
        Target("pyserini.eval.trec_eval", "doctor", before=_later(_ENVIRONMENT, "prepare_java")),
        Target("pyserini.prebuilt_index_info", "doctor", around=_later(_ENVIRONMENT, "survive_offline")),
        Target("pyserini.encode._openai", "encode", around=_later(_ENVIRONMENT, "survive_without_key")),
        # Classes
        Target("pyserini.encode", "encode", patch=_later(_CLASSES, "patch_encode")),
        Target("pyserini.search.lucene._impact_searcher", "search", patch=_later(_CLASSES, "patch_impact_searcher")),
        # Commands
        Target("pyserini.encode.__main__", "encode", command=_later(_COMMANDS, "patch_encode")),
        Target("pyserini.encode.query", "encode-queries", command=_later(_COMMANDS, "patch_encode_query")),
        Target("pyserini.search.lucene.__main__", "search", command=_later(_COMMANDS, "patch_search")),
        Target("pyserini.search.faiss.__main__", "search", command=_later(_COMMANDS, "patch_faiss")),
        Target("pyserini.search.hybrid.__main__", "search", command=_later(_COMMANDS, "patch_hybrid")),
        Target(
            "pyserini.index.lucene.__main__",
            "index",
            command=_later(_INDEXING, "before_index"),
            finish=_later(_INDEXING, "after_index"),
        ),
    )
}

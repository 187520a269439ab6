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


def _later(place: str) -> Callable[..., Any]:
    """A function of this package by its ``module.name``, imported when it is first called."""

    def call(*arguments: Any) -> Any:
        module, _, function = place.rpartition(".")
        return getattr(import_module(f"pyserini_llm_sparse.plugin.{module}"), function)(*arguments)

    return call


TARGETS = {
    target.module: target
    for target in (
        # What every Pyserini command needs to start at all
        Target("pyserini.pyclass", "doctor", before=_later("patches.environment.prepare_java")),
        Target("pyserini.setup", "doctor", patch=_later("patches.environment.patch_classpath")),  # 1.x
        Target("pyserini._jvm", "doctor", patch=_later("patches.environment.patch_classpath")),  # 2.x
        Target("pyserini.eval.trec_eval", "doctor", before=_later("patches.environment.prepare_java")),
        Target("pyserini.prebuilt_index_info", "doctor", around=_later("patches.environment.survive_offline")),
        Target("pyserini.encode._openai", "encode", around=_later("patches.environment.survive_without_key")),
        # Classes
        Target("pyserini.encode", "encode", patch=_later("patches.classes.patch_encode")),
        Target(
            "pyserini.search.lucene._impact_searcher", "search", patch=_later("patches.classes.patch_impact_searcher")
        ),
        # Commands
        Target("pyserini.encode.__main__", "encode", command=_later("patches.commands.patch_encode")),
        Target("pyserini.encode.query", "encode-queries", command=_later("patches.commands.patch_encode_query")),
        Target("pyserini.search.lucene.__main__", "search", command=_later("patches.commands.patch_search")),
        Target("pyserini.search.faiss.__main__", "search", command=_later("patches.commands.patch_faiss")),
        Target("pyserini.search.hybrid.__main__", "search", command=_later("patches.commands.patch_hybrid")),
        Target(
            "pyserini.index.lucene.__main__",
            "index",
            command=_later("patches.indexing.before_index"),
            finish=_later("patches.indexing.after_index"),
        ),
    )
}

"""The steps of one collection, each made once, and the files that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from pyserini_llm_sparse.regressions.run.collection import DOCUMENTS, QRELS, TOPICS
from pyserini_llm_sparse.regressions.run.steps import Step
from pyserini_llm_sparse.version import __version__

Contents = Mapping[str, Callable[[], str]]
"""What a step's output depends on besides its command: see `Step.contents`."""


def versions() -> str:
    """Return the versions of what makes the output of the commands."""
    return f"pyserini {metadata.version('pyserini')}, pyserini-llm-sparse {__version__}"


class CollectionSteps:
    """The steps of a collection; of those with the same command there is one.

    Attributes:
        prepared: The step that lays the collection out.
        work: Folder for all of its steps.
        threads: Of indexing and searching, as commands take it.
    """

    def __init__(self, prepared: Step, work: Path, threads: int) -> None:
        self.prepared, self.work, self.threads = prepared, work, str(threads)
        self._made: dict[tuple[str, ...], Step] = {}

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.work.name

    @property
    def topics(self) -> str:
        """The judged queries."""
        return str(self.prepared.folder / TOPICS)

    @property
    def qrels(self) -> str:
        """The judgements."""
        return str(self.prepared.folder / QRELS)

    @property
    def documents(self) -> str:
        """Folder of the documents."""
        return str(Path(self.texts).parent)

    @property
    def texts(self) -> str:
        """The documents: the file in that folder."""
        return str(self.prepared.folder / DOCUMENTS)

    def step(
        self, system: str, folder: str, what: str, *command: str, after: tuple[Step, ...] = (),
        contents: Contents | None = None, check: tuple[str, ...] = (),
    ) -> Step:  # fmt: skip
        """Return a step of a system; an earlier one with the same command is taken in its place."""
        step = Step(
            f"{self.name}: {system}: {what}", self.work / system / folder, command, (self.prepared, *after),
            {"versions": versions, **(contents or {})}, check=check,
        )  # fmt: skip
        return self._made.setdefault(command, step)

"""Topics, judgements and indexes as Pyserini knows them: by name, which may be downloaded, or in its formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyserini_llm_sparse.errors import DataError, LlmSparseError, ResourceError, first_line
from pyserini_llm_sparse.files.topics import PYSERINI
from pyserini_llm_sparse.indexing.lucene import jdk

_Found = TypeVar("_Found")

__all__ = ["PYSERINI", "named_index", "named_qrels", "named_topics"]


def named_topics(name: str) -> dict[str, str]:
    """Return ``{id: text}`` of topics; empty if they have none.

    Args:
        name: Pyserini's name of them, or `PYSERINI` and a file's path.

    Raises:
        ResourceError: Pyserini does not know the name, or cannot download them.
        DataError: It cannot read the file, or a topic has no title.
    """

    # Java stays in the folder that this process started in.
    wanted = str(Path(name.removeprefix(PYSERINI)).absolute()) if name.startswith(PYSERINI) else name

    def topics() -> dict[str, str]:
        from pyserini.query_iterator import DefaultQueryIterator

        found = DefaultQueryIterator.from_topics(wanted)
        without = [str(identifier) for identifier, text in found if text is None]
        if without:
            raise DataError(f"{name}: topic {without[0]} has no title: that is what Pyserini searches for; add it")
        return {str(identifier): str(text) for identifier, text in found}

    return _from_pyserini(name, "topics", topics)


def named_qrels(name: str) -> Path:
    """Return the file of judgements.

    Raises:
        ResourceError: Pyserini does not know the name, or cannot download them.
    """

    def qrels() -> Path:
        from pyserini.search import get_qrels_file

        return Path(get_qrels_file(name))

    return _from_pyserini(name, "judgements", qrels)


def named_index(name: str) -> Path:
    """Return the folder of one of Pyserini's prebuilt indexes, which is downloaded unless it is there.

    Raises:
        ResourceError: Pyserini does not know the name, or cannot download it.
    """

    def folder() -> Path:
        from pyserini.util import download_prebuilt_index

        return Path(download_prebuilt_index(name, verbose=False))

    return _from_pyserini(name, "index", folder)


def _from_pyserini(name: str, what: str, get: Callable[[], _Found]) -> _Found:
    jdk.use_jdk()
    try:
        return get()
    except LlmSparseError:
        raise
    except Exception as error:  # whatever Pyserini, Java or the network raise: the name was all that they were given
        if name.startswith(PYSERINI) and Path(name.removeprefix(PYSERINI)).exists():
            raise DataError(
                f"{name.removeprefix(PYSERINI)}: {what} that Pyserini cannot read: {first_line(error)}; correct the "
                "file, or write id<TAB>text a line"
            ) from error
        raise ResourceError(
            f"{name}: no such {what}: no file, and Pyserini cannot give {what} of this name ({first_line(error)}); "
            "give a path"
        ) from error

"""``pyserini.index.lucene``: the encoding spec that lies beside the vectors goes into the index with them."""

from __future__ import annotations

import atexit
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import LlmSparseError, SpecMismatchError
from pyserini_llm_sparse.files.walk import files_below
from pyserini_llm_sparse.indexing.lucene import index_state, set_index_spec_aside, settle_index_spec
from pyserini_llm_sparse.modelling.names import SPEC_FILE
from pyserini_llm_sparse.modelling.spec import EncodingSpec, find_sidecar, maker
from pyserini_llm_sparse.plugin.command_line import one_line_errors

_logger = logging.getLogger(__name__)

NEEDED_OPTIONS = ("impact", "pretokenized")


class _Job:
    """What is known about the indexing that is under way."""

    index: Path | None = None
    spec: EncodingSpec | None = None
    made_by: str = ""
    state_before: object = None


def before_index(command: dict[str, Any]) -> None:
    """Find the specs that belong to the input, and keep them out of Lucene's sight."""
    if command.get("__name__") != "__main__":
        return
    source, index = _option("input"), _option("index")
    if not source or not index or not Path(source).is_dir():
        return
    folder = Path(source)
    beside = [path] if (path := find_sidecar(folder)) is not None else []
    # Shards are folders inside the input, so their sidecars are inside as well, where Lucene would read them.
    with one_line_errors():
        inside = [path for path in files_below(folder) if path.name.endswith(f".{SPEC_FILE}")]
    try:
        _Job.spec = _single_spec(beside + inside)
        _Job.made_by = next((name for path in beside + inside if (name := maker(path))), "")
        set_index_spec_aside(index)
    except LlmSparseError as error:
        with one_line_errors():
            raise error
    _Job.index = Path(index)
    _Job.state_before = index_state(index)
    if _Job.spec is not None:
        missing = [f"--{name}" for name in NEEDED_OPTIONS if not _flag(name)]
        if missing:
            _logger.warning(
                "%s: these are impact vectors, but %s was not given: their scores will not be what the model meant",
                source,
                " and ".join(missing),
            )
    if inside:
        sys.argv[_position("input")] = str(_view_without(folder, inside))


def after_index(command: dict[str, Any]) -> None:
    """Leave the spec in the index that has just been written; the former one, if nothing was written."""
    job = _Job
    if job.index is None:
        return
    with one_line_errors():
        settle_index_spec(job.index, index_state(job.index) != job.state_before, job.spec, job.made_by)


def _single_spec(paths: list[Path]) -> EncodingSpec | None:
    if not paths:
        return None
    specs = [EncodingSpec.load(path) for path in paths]
    for path, spec in zip(paths[1:], specs[1:], strict=True):
        try:
            spec.require_equal(specs[0], str(path), str(paths[0]))
        except SpecMismatchError as error:
            raise SpecMismatchError(f"{error}; encode all shards alike before indexing them together") from error
    return specs[0]


def _view_without(folder: Path, hidden: list[Path]) -> Path:
    """A folder of links to all files of another but some."""
    view = Path(tempfile.mkdtemp(prefix="pyserini_llm_sparse_"))
    atexit.register(shutil.rmtree, view, ignore_errors=True)
    for path in files_below(folder):
        if path not in hidden:
            link = view / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                link.symlink_to(path.resolve())
            except OSError:  # Windows without the right to make links
                shutil.copyfile(path, link)
    return view


def _position(name: str) -> int:
    """Where in ``sys.argv`` the value of an option is, 0 if nowhere; Pyserini takes one dash and two."""
    for position, argument in enumerate(sys.argv[:-1]):
        if argument in (f"-{name}", f"--{name}"):
            return position + 1
    return 0


def _option(name: str) -> str | None:
    position = _position(name)
    return sys.argv[position] if position else None


def _flag(name: str) -> bool:
    return f"-{name}" in sys.argv or f"--{name}" in sys.argv

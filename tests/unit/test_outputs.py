"""An output is refused before any work is done, and nothing is replaced or mixed with what is not ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import LlmSparseError, ResourceError, UsageError
from pyserini_llm_sparse.files.outputs import require_file, require_folder, require_only

PARTS = re.compile(r"part-\d+")
Guard = Callable[[Path], None]


def checkpoint_folder(overwrite: bool) -> Guard:
    return lambda path: require_folder(path, overwrite, "checkpoint", ("config.json", "adapter_config.json"))


def parts_folder(path: Path) -> None:
    require_only(path, PARTS, "is not a part")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """One of each kind of thing that may be in the way."""
    for folder in ("empty", "checkpoint", "adapter", "notes", "misleading/config.json", "parts", "mixed"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("file", "checkpoint/config.json", "adapter/adapter_config.json", "notes/thesis.tex", "parts/part-1",
                 "mixed/part-1", "mixed/.hidden"):  # fmt: skip
        (tmp_path / file).write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("guard", "names"),
    [
        (lambda path: require_file(path, overwrite=False), ["new"]),
        (lambda path: require_file(path, overwrite=True), ["new", "file"]),
        (checkpoint_folder(overwrite=False), ["new", "deep/new", "empty"]),
        (checkpoint_folder(overwrite=True), ["new", "empty", "checkpoint", "adapter"]),
        (lambda path: require_folder(path, overwrite=True), ["notes"]),
        (parts_folder, ["new", "empty", "parts"]),
    ],
)
def test_what_is_free_or_may_be_replaced_is_let_through(guard: Guard, names: list[str], outputs: Path) -> None:
    before = sorted(outputs.rglob("*"))
    for name in names:
        guard(outputs / name)
    assert sorted(outputs.rglob("*")) == before


@pytest.mark.parametrize(
    ("guard", "name", "error", "said"),
    [
        (lambda path: require_file(path, False), "file", UsageError, "exists already: .* give --overwrite"),
        (lambda path: require_file(path, True), "empty", UsageError, "is a folder: .* name one in it"),
        (lambda path: require_file(path, True), "nowhere/file", ResourceError, "cannot be written: .*nowhere; make it"),
        (checkpoint_folder(True), "file", UsageError, "is a file: .* choose another output"),
        (checkpoint_folder(False), "adapter", UsageError, "exists already: .* give --overwrite"),
        (checkpoint_folder(False), "notes", UsageError, "holds something else: there are files but no checkpoint; "),
        (checkpoint_folder(True), "notes", UsageError, "holds something else: there are files but no checkpoint; "),
        (checkpoint_folder(True), "misleading", UsageError, "holds something else"),
        (lambda path: require_folder(path, False), "notes", UsageError, "exists already"),
        (parts_folder, "mixed", UsageError, r"holds something else: \.hidden is not a part; move that"),
        (parts_folder, "file", UsageError, "is a file"),
    ],
)
def test_what_is_in_the_way_is_refused_in_one_line_with_a_remedy(
    guard: Guard, name: str, error: type[LlmSparseError], said: str, outputs: Path
) -> None:
    with pytest.raises(error, match=f"^{re.escape(str(outputs / name))}: {said}") as refused:
        guard(outputs / name)
    assert "\n" not in str(refused.value)

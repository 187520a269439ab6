"""An output is refused before any work is done, and nothing is replaced or mixed with what is not ours."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import LlmSparseError, ResourceError, UsageError
from pyserini_llm_sparse.files.atomic import atomic_file, atomic_folder
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


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    """A node of one's own for what /dev/null is; the true one must survive a failure."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.open("wb").close()
    except OSError:
        pytest.skip("devices cannot be made here")
    return path


def test_a_device_is_written_to_unasked_and_stays_one(tmp_path: Path) -> None:
    path = device(tmp_path / "null")
    for overwrite in (False, True):
        require_file(path, overwrite)
        with atomic_file(path) as stream:
            stream.write(b"gone")
    assert path.is_char_device()
    assert [one.name for one in tmp_path.iterdir()] == ["null"]


def test_a_pipe_gets_the_bytes_and_stays_one(tmp_path: Path) -> None:
    path = pipe(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(path.read_bytes)
        require_file(path, overwrite=False)
        with atomic_file(path) as stream:
            stream.write(b"a run")
        assert read.result(10) == b"a run"
    assert path.is_fifo()


def test_a_pipe_whose_reader_has_seen_enough_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    path = pipe(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as reader, pytest.raises(BrokenPipeError):
        reader.submit(lambda: path.open("rb").close())
        with atomic_file(path) as stream:
            while True:
                stream.write(bytes(1 << 20))


def test_a_link_is_followed_and_its_file_replaced_only_if_asked(tmp_path: Path) -> None:
    real, link = tmp_path / "deep" / "real", tmp_path / "link"
    real.parent.mkdir()
    link.symlink_to(Path("deep/real"))
    for content in (b"new", b"newer"):  # first the link leads to nothing yet
        require_file(link, overwrite=real.exists())
        with atomic_file(link) as stream:
            stream.write(content)
        assert (link.is_symlink(), real.read_bytes(), real.is_symlink()) == (True, content, False)
    with pytest.raises(UsageError, match=r"link: exists already: .* give --overwrite"):
        require_file(link, overwrite=False)
    assert [path.name for path in real.parent.iterdir()] == ["real"]


def test_a_link_to_a_folder_stays_when_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "old").write_text("old")
    (tmp_path / "current").symlink_to("v1")
    with atomic_folder(tmp_path / "current") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "current").is_symlink()
    assert [path.name for path in (tmp_path / "v1").iterdir()] == ["new"]


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be locked on this system")
def test_what_killed_writers_left_is_removed_by_the_next_one_and_nobody_else_s(tmp_path: Path) -> None:
    left = [tmp_path / f".model.abcdefg{number}{end}" for number in range(2) for end in (".unfinished", ".replaced")]
    others = [tmp_path / ".model.20240101", tmp_path / ".models.abcdefgh.unfinished"]
    for folder in (*left, *others):
        folder.mkdir()
        (folder / "weights").touch()
    with atomic_folder(tmp_path / "model") as first:
        assert [one.exists() for one in left] == [False, True] * 2  # what was replaced may be all that there is
        with atomic_folder(tmp_path / "model") as second:
            (second / "weights").write_text("second")
            assert first.is_dir()
        (first / "weights").write_text("first")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "model"])
    assert (tmp_path / "model" / "weights").read_text() == "first"


def test_a_folder_that_cannot_be_put_in_place_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(self: Path, target: Path) -> Path:
        if self.name.endswith(".unfinished"):
            raise OSError("no")
        return replace(self, target)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("former")
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", replaced)
    with pytest.raises(ResourceError), atomic_folder(tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "former"


def test_a_file_that_was_private_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with atomic_file(path) as stream:
        stream.write(b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


def test_links_and_things_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "astray").symlink_to("nowhere/file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, error, said in (
            ("circle", ResourceError, "cannot be written: "),
            ("astray", ResourceError, "there is no folder .*nowhere; make it"),
            ("socket", UsageError, "is a disk or a socket"),
        ):
            with pytest.raises(error, match=said):
                require_file(tmp_path / name, overwrite=True)
    with pytest.raises(ResourceError, match="cannot be written"), atomic_folder(tmp_path / "circle"):
        pass

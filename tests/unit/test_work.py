"""Unfinished work is gone on with after any kill, by one process at a time, and never as something else."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from pydantic import BaseModel

from pyserini_llm_sparse.errors import DataError, RunError, SpecMismatchError
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.work import Work, differences, held, load, require_same

PIECES = 3


class Stop(BaseException):
    """Stands for a process that ends where it stands."""


class Piece(BaseModel):
    number: int
    text: str


def opened(folder: Path, **names: str) -> Work:
    return Work(folder / "output", folder / "output.work", **names)


def make(work: Work) -> int:
    """Make an output of a few pieces, each recorded once. Returns how many were made now."""
    work.take()
    try:
        found = {piece.number for piece in work.records("piece-*.json", Piece.model_validate_json)}
        for number in {*range(PIECES)} - found:
            work.write(f"piece-{number}.json", Piece(number=number, text=f"text {number}").model_dump_json().encode())
        with atomic_file(work.output, work.staging) as stream:
            stream.writelines(piece.text.encode() for piece in work.records("piece-*.json", Piece.model_validate_json))
        work.remove()
    finally:
        work.release()
    return PIECES - len(found)


@pytest.mark.parametrize("names", [{}, {"lock": "shard-0.lock", "staging": "shard-0"}])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("stop_at", range(1, PIECES + 2))
def test_killed_between_any_two_writes_it_goes_on_to_the_same_bytes(
    stop_at: int, after: bool, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, unlink, calls = Path.replace, Path.unlink, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == stop_at and not after:
            raise Stop
        replace(self, target)
        if calls == stop_at:
            raise Stop
        return target

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        patched.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # nobody tidies up after a kill
        with pytest.raises(Stop):
            make(opened(tmp_path, **names))
    assert Path.unlink is unlink
    assert make(opened(tmp_path, **names)) == max(0, PIECES - (stop_at if after else stop_at - 1))
    assert (tmp_path / "output").read_bytes() == b"text 0text 1text 2"
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


@pytest.mark.parametrize("damage", [b"", b'{"number": 1, "te', b'{"number": 1}', b"\xff\x00", b"[]", b"null"])
def test_a_damaged_record_is_dropped_and_no_other(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = opened(tmp_path)
    work.take()
    for number in range(PIECES - 1):
        work.write(f"piece-{number}.json", Piece(number=number, text=f"text {number}").model_dump_json().encode())
    (work.folder / "piece-1.json").write_bytes(damage)
    work.release()
    with caplog.at_level(logging.WARNING):
        assert make(work) == 2
    assert "piece-1.json: damaged: " in caplog.text and "is made again" in caplog.text
    assert (tmp_path / "output").read_bytes() == b"text 0text 1text 2"


def test_a_damaged_identity_is_not_dropped_for_nothing_else_tells_whose_the_work_is(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seed": ')
    with pytest.raises(DataError, match=r"run\.json: damaged: .*; give --overwrite to start again"):
        load(tmp_path / "run.json", json.loads)
    assert (tmp_path / "run.json").exists()
    assert load(tmp_path / "none.json", json.loads) is None


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_goes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pyserini_llm_sparse.files.work import Work\n"
        "work = Work(*map(Path, sys.argv[1:])); work.take(); print('taken', flush=True); sys.stdin.read()"
    )
    work = opened(tmp_path)
    command = [sys.executable, "-c", program, str(work.output), str(work.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"taken\n"
        with pytest.raises(RunError, match=r"output: another process is writing it: .*output\.work/lock is locked"):
            work.take()
        with pytest.raises(RunError), held(work.output, tmp_path / "free.lock", work.folder / "lock"):
            raise AssertionError("one of the two is not free")
        other.kill()
    with held(work.output, tmp_path / "free.lock"):
        work.take()


def test_those_with_a_lock_and_a_staging_folder_each_work_side_by_side(tmp_path: Path) -> None:
    first, second = (opened(tmp_path, lock=f"shard-{shard}.lock", staging=f"shard-{shard}") for shard in "01")
    first.take()
    half_written = first.staging / ".piece-0.json.x.tmp"
    half_written.touch()
    second.take()
    second.write("piece-1.json", b"{}")
    assert half_written.exists(), "only the shard's own process may remove it"
    first.release()
    first.take()
    assert not half_written.exists() and (first.folder / "piece-1.json").exists()


def test_beginning_anew_leaves_the_locks_alone(tmp_path: Path) -> None:
    work = opened(tmp_path)
    work.take()
    for name in ("piece-0.json", "other.lock", "folder/file"):
        (work.folder / name).parent.mkdir(exist_ok=True)
        (work.folder / name).touch()
    work.clear()
    assert {path.name for path in work.folder.iterdir()} == {"lock", "other.lock"}
    with pytest.raises(RunError):
        opened(tmp_path).take()


JOB = {"seed": 42, "data": [{"path": "a", "size": 1}, {"path": "b", "size": 2}], "spec": {"top_k": 20}, "lora": None}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 7}, ["seed is 7 here, 42 there"]),
        ({"seed": 7, "spec": {"top_k": None}}, ["seed is 7 here, 42 there", "spec.top_k is None here, 20 there"]),
        ({"data": [{"path": "a", "size": 1}, {"path": "b", "size": 3}]}, ["data[1].size is 3 here, 2 there"]),
        ({"data": []}, [f"data is [] here, {JOB['data']!r} there"]),
        ({"new": 1}, ["new is 1 here, None there"]),
        ({"new": None}, []),  # a later version's field, which says that all is as it was
        ({"seed": "7" * 1000}, [f"seed is '{'7' * 199}... here, 42 there"]),
    ],
)
def test_another_identity_is_refused_with_each_difference(
    changed: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    now = {**JOB, **changed}
    assert list(differences(now, JOB)) == said
    if not said:
        require_same(tmp_path, now, JOB)
        return
    with pytest.raises(SpecMismatchError) as refused:
        require_same(tmp_path, now, JOB, SpecMismatchError)
    assert str(refused.value) == (
        f"{tmp_path}: was begun with other settings or data: {'; '.join(said)}; restore them, choose another output, "
        "or give --overwrite to start again"
    )


def test_a_lock_that_goes_with_its_folder_is_not_taken_for_the_one_that_others_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends its work between the moment that this one opens the lock and the moment that it has it."""
    acquire, vanished = FileLock.acquire, []

    def late(self: FileLock, *arguments: Any, **options: Any) -> Any:
        if not vanished:
            vanished.append(self.lock_file)
            shutil.rmtree(Path(self.lock_file).parent)
            Path(self.lock_file).parent.mkdir()
        return acquire(self, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    work = opened(tmp_path)
    work.take()
    assert vanished and work.is_there()
    with pytest.raises(RunError, match="another process is writing it"):
        opened(tmp_path).take()
    work.remove()
    assert not work.is_there()

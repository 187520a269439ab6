"""A run that was stopped goes on with its own settings only, and from a checkpoint that is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import DataError, RunError, UsageError
from pyserini_llm_sparse.files.work import held
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.loop.run_folder import RunFolder


def config(folder: Path, **fields: object) -> RetrieveConfig:
    return RetrieveConfig(model="m", train=("t",), output=folder / "trained", **fields)


def with_checkpoints(folder: RunFolder, **states: str) -> None:
    for name, state in states.items():
        checkpoint = folder.path / name.replace("_", "-")
        checkpoint.mkdir()
        (checkpoint / "trainer_state.json").write_text(state, encoding="utf-8")


def test_it_goes_on_from_the_last_whole_checkpoint(tmp_path: Path) -> None:
    first = RunFolder(config(tmp_path))
    first.prepare(overwrite=False)
    assert first.last_checkpoint() is None
    with_checkpoints(first, checkpoint_5='{"global_step": 5}', checkpoint_10='{"global_st', checkpoint_15="")
    again = RunFolder(config(tmp_path))
    again.prepare(overwrite=False)
    found = again.last_checkpoint()
    assert found is not None
    assert Path(found).name == "checkpoint-5"


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    first = RunFolder(config(tmp_path))
    first.prepare(overwrite=False)
    with_checkpoints(first, checkpoint_5="{}")
    with pytest.raises(UsageError, match=r"negatives is 2 here, 0 there; seed is 7 here, 42 there"):
        RunFolder(config(tmp_path, seed=7, negatives=2)).prepare(overwrite=False)


def test_a_run_of_a_version_with_fewer_fields_goes_on(tmp_path: Path) -> None:
    first = RunFolder(config(tmp_path))
    first.prepare(overwrite=False)
    with_checkpoints(first, checkpoint_5="{}")
    state = first.path / "run.json"
    before = json.loads(state.read_text(encoding="utf-8"))
    for name in ("impact_maximum", "term_naming"):
        del before["config"][name]
    state.write_text(json.dumps(before), encoding="utf-8")
    RunFolder(config(tmp_path)).prepare(overwrite=False)
    with pytest.raises(UsageError, match=r"impact_maximum is 255 here, 65535 there"):
        RunFolder(config(tmp_path, impact_maximum=255)).prepare(overwrite=False)


def test_settings_may_be_corrected_as_long_as_nothing_would_be_lost(tmp_path: Path) -> None:
    RunFolder(config(tmp_path)).prepare(overwrite=False)
    RunFolder(config(tmp_path, seed=7)).prepare(overwrite=False)


def test_overwriting_starts_anew(tmp_path: Path) -> None:
    first = RunFolder(config(tmp_path))
    first.prepare(overwrite=False)
    with_checkpoints(first, checkpoint_5="{}")
    other = RunFolder(config(tmp_path, seed=7))
    other.prepare(overwrite=True)
    assert other.last_checkpoint() is None


def test_a_result_that_is_there_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="exists already"):
        RunFolder(config(tmp_path)).prepare(overwrite=False)
    assert not (tmp_path / "trained.run").exists()


def test_a_finished_run_leaves_its_logs_and_no_state(tmp_path: Path) -> None:
    folder = RunFolder(config(tmp_path))
    folder.prepare(overwrite=False)
    with_checkpoints(folder, checkpoint_5="{}")
    (folder.path / "logs").mkdir()
    folder.finish()
    assert [path.name for path in folder.path.iterdir()] == ["logs"]
    RunFolder(config(tmp_path, seed=7)).prepare(overwrite=False)
    assert folder.seconds() == 0


def test_another_process_does_not_train_to_the_same_output(tmp_path: Path) -> None:
    with held(tmp_path / "trained", tmp_path / "trained.run" / "lock"):  # as a process has it that is no part of this
        for overwrite in (False, True):
            with pytest.raises(RunError, match="trained: another process is writing it"):
                RunFolder(config(tmp_path)).prepare(overwrite)
    first = RunFolder(config(tmp_path))
    first.prepare(overwrite=False)
    RunFolder(config(tmp_path)).prepare(overwrite=False)  # after a failure in this process
    with pytest.raises(RunError), held(first.path, first.path / "lock"):
        raise AssertionError("the lock is free")
    first.finish()
    with held(first.path, first.path / "lock"):
        pass


def test_a_damaged_state_is_said_so(tmp_path: Path) -> None:
    folder = RunFolder(config(tmp_path))
    folder.prepare(overwrite=False)
    (folder.path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json: damaged"):
        folder.prepare(overwrite=False)

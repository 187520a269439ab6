"""A run that was stopped goes on with its own settings only, and from a checkpoint that is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import DataError, RunError, UsageError
from pyserini_llm_sparse.files import digests
from pyserini_llm_sparse.files.digests import KnownDigests
from pyserini_llm_sparse.files.work import held
from pyserini_llm_sparse.training import run
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.loop import processes
from pyserini_llm_sparse.training.loop.run_folder import RunFolder
from pyserini_llm_sparse.training.retriever.building import starting_checkpoint
from tests.checkpoints import checkpoint, copied


def config(folder: Path, **fields: object) -> RetrieveConfig:
    return RetrieveConfig(model="m", train=("t",), output=folder / "trained", **fields)


def begun(folder: RunFolder, overwrite: bool = False, **stands_on: object) -> RunFolder:
    folder.prepare(overwrite, stands_on)
    folder.begin(overwrite, stands_on)
    return folder


def with_checkpoints(folder: RunFolder, **states: str) -> None:
    for name, state in states.items():
        made = folder.path / name.replace("_", "-")
        made.mkdir()
        (made / "trainer_state.json").write_text(state, encoding="utf-8")


def test_it_goes_on_from_the_last_whole_checkpoint(tmp_path: Path) -> None:
    first = begun(RunFolder(config(tmp_path)))
    assert first.last_checkpoint() is None
    with_checkpoints(first, checkpoint_5='{"global_step": 5}', checkpoint_10='{"global_st', checkpoint_15="")
    again = begun(RunFolder(config(tmp_path)))
    found = again.last_checkpoint()
    assert found is not None
    assert Path(found).name == "checkpoint-5"


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    first = begun(RunFolder(config(tmp_path)))
    with_checkpoints(first, checkpoint_5="{}")
    with pytest.raises(UsageError, match=r"negatives is 2 here, 0 there; seed is 7 here, 42 there"):
        RunFolder(config(tmp_path, seed=7, negatives=2)).prepare(overwrite=False)


def test_a_run_of_a_version_with_fewer_fields_goes_on(tmp_path: Path) -> None:
    first = begun(RunFolder(config(tmp_path)))
    with_checkpoints(first, checkpoint_5="{}")
    state = first.path / "run.json"
    before = json.loads(state.read_text(encoding="utf-8"))
    for name in ("impact_maximum", "term_naming"):
        del before["config"][name]
    del before["stands_on"], before["digests"]
    state.write_text(json.dumps(before), encoding="utf-8")
    RunFolder(config(tmp_path)).prepare(False, {"processes": 2})
    with pytest.raises(UsageError, match=r"impact_maximum is 255 here, 65535 there"):
        RunFolder(config(tmp_path, impact_maximum=255)).prepare(overwrite=False)


def test_settings_may_be_corrected_as_long_as_nothing_would_be_lost(tmp_path: Path) -> None:
    begun(RunFolder(config(tmp_path)))
    begun(RunFolder(config(tmp_path, seed=7)))


def test_overwriting_starts_anew(tmp_path: Path) -> None:
    first = begun(RunFolder(config(tmp_path)))
    with_checkpoints(first, checkpoint_5="{}")
    other = RunFolder(config(tmp_path, seed=7))
    other.prepare(overwrite=True)
    assert other.last_checkpoint() is not None  # until data and model have been read
    other.begin(overwrite=True)
    assert other.last_checkpoint() is None


def test_a_result_that_is_there_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="exists already"):
        RunFolder(config(tmp_path)).prepare(overwrite=False)
    assert not (tmp_path / "trained.run").exists()


def test_a_finished_run_leaves_its_logs_and_no_state(tmp_path: Path) -> None:
    folder = begun(RunFolder(config(tmp_path)))
    with_checkpoints(folder, checkpoint_5="{}")
    (folder.path / "logs").mkdir()
    (folder.path / "start").mkdir()
    folder.start_measures.write_text("{}", encoding="utf-8")
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
    folder = begun(RunFolder(config(tmp_path)))
    with_checkpoints(folder, checkpoint_5="{}")
    (folder.path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json: damaged"):
        folder.prepare(overwrite=False)


def test_what_decides_nothing_may_change(tmp_path: Path) -> None:
    first = begun(RunFolder(config(tmp_path, trainer={"logging_steps": 1, "learning_rate": 1e-4})))
    with_checkpoints(first, checkpoint_5="{}")
    other = {"save_steps": 5, "save_total_limit": 1, "report_to": [], "dataloader_num_workers": 2, "bf16": True}
    with pytest.raises(UsageError) as caught:
        RunFolder(config(tmp_path, trainer=other)).prepare(overwrite=False)
    assert str(caught.value).count(" here, ") == 2
    assert "trainer.bf16 is True here, None there" in str(caught.value)
    assert "trainer.learning_rate is None here, 0.0001 there" in str(caught.value)


def test_the_workers_of_a_stream_decide_its_order(tmp_path: Path) -> None:
    stream = {"streaming": True, "trainer": {"max_steps": 1}}
    with_checkpoints(begun(RunFolder(config(tmp_path, **stream))), checkpoint_5="{}")
    stream["trainer"] = {"max_steps": 1, "dataloader_num_workers": 2}
    with pytest.raises(UsageError, match="dataloader_num_workers is 2 here"):
        RunFolder(config(tmp_path, **stream)).prepare(overwrite=False)


def test_a_revision_that_the_hub_did_not_say_is_not_compared(tmp_path: Path) -> None:
    for before, now in ((None, "b"), ("a", None), ("a", "a")):
        told, tells = ({"train data": {"hf:x": {"revision": one}}} for one in (before, now))
        folder = begun(RunFolder(config(tmp_path)), True, **told)
        with_checkpoints(folder, checkpoint_5="{}")
        RunFolder(config(tmp_path)).prepare(False, tells)
    with pytest.raises(UsageError, match=r"train data\.hf:x\.revision is 'b' here, 'a' there"):
        RunFolder(config(tmp_path)).prepare(False, {"train data": {"hf:x": {"revision": "b"}}})


def test_a_run_stands_on_data_model_processes_and_batch(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a", "positive": "b"}\n', encoding="utf-8")
    model = copied("llama_causal", tmp_path / "model")

    def prepared(processes: int = 1, **trainer: int) -> object:
        settings = {"use_cpu": True, "report_to": [], "max_steps": 1, **trainer}
        fields = RetrieveConfig(model=str(model), train=(str(pairs),), output=tmp_path / "out", trainer=settings)
        found = run._prepared(fields, starting_checkpoint(fields), False, {"train": fields.train}, evaluates=False)
        if processes > 1:
            found.folder.prepare(False, {**found.stands_on, "processes": processes})
        return found

    found = prepared()
    found.begin()
    with_checkpoints(found.folder, checkpoint_5="{}")
    prepared()
    with pytest.raises(UsageError, match="processes is 2 here, 1 there"):
        prepared(processes=2)
    with pytest.raises(UsageError, match="gradient_accumulation_steps is 4 here, 1 there"):
        prepared(gradient_accumulation_steps=4)
    pairs.write_text('{"query": "a", "positive": "c"}\n', encoding="utf-8")
    settings = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}), encoding="utf-8")
    (model / "encoding_spec.json").unlink()
    with pytest.raises(UsageError, match=r"model_fingerprint is .* here, .*pairs.jsonl\.sha256 is .* here, .* there"):
        prepared()


def test_bad_data_costs_nothing_of_the_run_that_was_to_be_overwritten(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("no example\n", encoding="utf-8")
    fields = RetrieveConfig(model=str(checkpoint("llama_causal")), train=(str(pairs),), output=tmp_path / "trained",
                            trainer={"use_cpu": True})  # fmt: skip
    with_checkpoints(begun(RunFolder(fields)), checkpoint_5="{}")
    with pytest.raises(DataError, match=r"pairs.jsonl:1"):
        run.retrieve(fields, overwrite=True)
    assert (tmp_path / "trained.run/checkpoint-5").is_dir()


def test_a_file_is_read_once_for_its_digest_unless_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"one")
    first = KnownDigests()
    digest = first(path)
    monkeypatch.setattr(digests, "file_sha256", lambda path: "read again")
    assert KnownDigests(json.loads(json.dumps(first.content())))(path) == digest
    path.write_bytes(b"two")
    assert KnownDigests(first.content())(path) == "read again"


@pytest.mark.parametrize(("rank", "raised"), [(0, UsageError), (1, SystemExit)])
def test_what_the_first_process_is_refused_ends_all(
    monkeypatch: pytest.MonkeyPatch, rank: int, raised: type[BaseException]
) -> None:
    sent: list[list[int | None]] = []

    class Processes:
        num_processes = 2
        is_main_process = rank == 0

    def broadcast(outcome: list[int | None]) -> None:
        outcome[:] = [2] if rank else outcome
        sent.append(list(outcome))

    def act() -> None:
        raise UsageError("no")

    monkeypatch.setattr(processes, "PartialState", Processes)
    monkeypatch.setattr(processes, "broadcast_object_list", broadcast)
    with pytest.raises(raised):
        processes.in_first_process(act)
    assert sent == [[2]]

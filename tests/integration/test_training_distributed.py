"""Two processes train as one does with the doubled batch, with DDP and with FSDP, over gloo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pyserini_llm_sparse.errors import UsageError
from tests.checkpoints import checkpoint
from tests.training_runs import FirstGradient, distance, in_two_processes, logged, run_config, trainer
from tests.training_worker import BEST, FSDP, RESUMED, RUNS, START, settings


@pytest.fixture(scope="module")
def models() -> dict[str, str]:
    return {name: str(checkpoint(name)) for name in ("llama_causal", "inference_free")}


@pytest.fixture(scope="module")
def results(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all runs, started once: most of the time is imports."""
    folder = tmp_path_factory.mktemp("two-processes")
    (folder / "models.json").write_text(json.dumps(models))
    in_two_processes("training_worker.py", str(folder), *RUNS)
    return folder


def facts(results: Path, name: str) -> Any:
    return json.loads((results / name / "facts.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_with_the_doubled_batch(
    name: str, results: Path, models: dict[str, str], tmp_path: Path
) -> None:
    first = FirstGradient()
    alone = trainer(settings(name, 1, tmp_path, models), tmp_path, callbacks=[first])
    alone.train()
    assert distance(load_file(results / name / "gradient.safetensors"), first.gradient) < 1e-5
    # Adam divides a gradient by its size, and thereby makes much of rounding where it is next to nothing.
    tolerance = 1e-5 if alone.args.optim == "sgd" else 1e-4
    # Other groups of similar length round otherwise, which three steps make a little more of.
    assert facts(results, name)["losses"] == pytest.approx(logged(alone), rel=5 * tolerance)
    assert len(set(logged(alone))) == 4
    finished = alone.finished_model()
    assert finished is not None
    assert distance(load_file(results / name / "weights.safetensors"), finished.trained_weights()) < tolerance


@pytest.mark.parametrize("name", RESUMED)
def test_two_processes_go_on_from_a_checkpoint_to_the_same_losses(name: str, results: Path) -> None:
    found = facts(results, name)
    assert found["resumed"] == pytest.approx(found["losses"], rel=1e-6)


def test_the_model_is_sharded_by_layers_where_fsdp_is_asked_for(results: Path) -> None:
    modules = facts(results, "fsdp-lora")["modules"]
    assert modules.count("FSDPLlamaDecoderLayer") == 2 and modules[0] == "FSDPRetrievalModel"
    assert facts(results, "plain")["modules"][0] == "DistributedDataParallel"


def test_a_model_that_is_sharded_is_read_by_one_process_alone(results: Path) -> None:
    """Else each of a machine's processes would hold all of it, 32 GB for 8 billion parameters."""

    def loaded(name: str) -> list[float]:
        return [json.loads((results / name / f"loaded-by-{rank}.json").read_text()) for rank in range(2)]

    assert loaded("fsdp-lora")[0] != loaded("fsdp-lora")[1]
    assert loaded("plain")[0] == loaded("plain")[1] > 0


def test_a_sharded_run_ends_with_its_best_checkpoint(results: Path) -> None:
    finished = load_file(results / BEST / "weights.safetensors")
    for step, is_best in ((2, True), (4, False)):
        kept = load_file(results / BEST / f"checkpoint-{step}" / "model.safetensors")
        assert (distance(finished, kept) < 1e-6) is is_best


def test_a_sharded_run_ends_with_its_start_if_nothing_is_better(results: Path) -> None:
    finished, start = (load_file(results / START / f"{name}.safetensors") for name in ("weights", "start"))
    kept = load_file(results / START / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(finished[name], start[name]) for name in start)
    assert not all(torch.equal(finished[name], kept[name]) for name in start)


def test_a_checkpoint_of_two_processes_holds_the_adapter_only(results: Path) -> None:
    names = set(load_file(results / "lora" / "checkpoint-2" / "model.safetensors"))
    assert names and all("lora_" in name for name in names)


def test_fsdp_that_would_not_shard_is_refused(tmp_path: Path) -> None:
    config = run_config(tmp_path, trainer=FSDP)
    with pytest.raises(UsageError, match=r"trainer: fsdp: there is one process only"):
        trainer(config, tmp_path)

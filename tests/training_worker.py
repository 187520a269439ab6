"""Runs small trainings as one of several processes, and writes what came out; see `training_runs.in_two_processes`.

Arguments: a folder for the results, then names of runs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file

from pyserini_llm_sparse.training.loop.trainer import RetrievalTrainer
from pyserini_llm_sparse.training.retriever.building import build_model
from tests import training_runs
from tests.training_runs import FirstGradient, logged, run_config, trainer

LORA = {"lora_rank": 4, "lora_dropout": 0.0}
FSDP: dict[str, Any] = {"fsdp": True, "fsdp_config": {"version": 2, "cpu_ram_efficient_loading": True}}
FSDP_WHOLE: dict[str, Any] = {"fsdp": True, "fsdp_config": {"version": 2, "cpu_ram_efficient_loading": False}}
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cached-accumulated": {"gradient_cache_size": 3, "trainer": {"gradient_accumulation_steps": 2}},
    "inference-free": {
        "query_encoder": "inference-free", "model": "inference_free", "attention": "bidirectional",
        "gradient_cache_size": 3,
    },
    "lora": {**LORA, "objective": "contrastive+distillation", "trainer": {"gradient_checkpointing": True}},
    "fsdp-cached": {"gradient_cache_size": 3, "trainer": FSDP_WHOLE},
    "fsdp-lora": {**LORA, "trainer": {**FSDP, "optim": "adamw_torch", "learning_rate": 1e-3}},
}  # fmt: skip
# Its evaluation at step 2 is the best, then of another run the one at the start.
BEST, START = "fsdp-best", "fsdp-start"
SCORES = (0.1, 0.9, 0.5, 0.9, 0.1, 0.5)
# SGD has no state, and torch cannot put an empty one back into shards.
RESUMED = [name for name in RUNS if name != "fsdp-cached"]


class ShardedOnCpu(RetrievalTrainer):
    """accelerate shards on GPUs only, and takes DDP elsewhere; gloo can do it, so it is told that it may."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        for state in (self.accelerator.state, PartialState()):
            state.distributed_type = DistributedType.FSDP
        self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        self.is_fsdp_enabled = True


def best_at_first(model: Any) -> dict[str, float]:
    """An evaluation that takes part in a forward pass of all processes, and gets worse."""
    ids = torch.arange(3, 11)[None]
    document = model(document_input_ids=ids, document_attention_mask=ids * 0 + 1, document_pool_mask=ids * 0 + 1)[1]
    best_at_first.calls += 1  # type: ignore[attr-defined]
    score = SCORES[best_at_first.calls - 1]  # type: ignore[attr-defined]
    return {"nDCG@10": score, "terms": float((document > 0).sum())}


best_at_first.calls = 0  # type: ignore[attr-defined]


def settings(name: str, world: int, folder: Path, models: dict[str, str]) -> Any:
    """A run whose batch of eight is shared by `world` processes; in one alone, it is neither sharded nor cached."""
    fields = dict(RUNS[name])
    arguments = {
        "max_steps": 4, "per_device_train_batch_size": 8 // world, "save_steps": 2,
        "optim": "sgd", "learning_rate": 1e-4,  # Adam would not show a gradient of the wrong size
        **{key: value for key, value in fields.pop("trainer", {}).items() if world > 1 or "fsdp" not in key},
    }  # fmt: skip
    fields["model"] = models[fields.get("model", "llama_causal")]
    if world == 1:
        fields.pop("gradient_cache_size", None)
    return run_config(folder, trainer=arguments, **fields)


def end_with_the_best(folder: Path, models: dict[str, str], best: int) -> None:
    """A sharded run that evaluates, and takes its best checkpoint back, or what it started from."""
    config = settings("fsdp-lora", 2, folder, models)
    run = trainer(config, folder, kind=ShardedOnCpu, evaluator=best_at_first)
    run.train()
    finished = run.finished_model()
    if run.is_world_process_zero():
        assert run.state.best_global_step == best and run.state.global_step == 4
        save_file(finished.trained_weights(), folder / "weights.safetensors")
        save_file(build_model(config).trained_weights(), folder / "start.safetensors")
    run.accelerator.wait_for_everyone()


def note_what_is_loaded(folder: Path) -> None:
    """Have each process write down the size of the backbone's weights as they were loaded; 0 if they were not."""
    build = training_runs.build_model

    def noted(*arguments: Any) -> Any:
        model = build(*arguments)
        loaded = {name: parameter for name, parameter in model.named_parameters() if "lora_" not in name}
        size = sum(float(parameter.detach().abs().sum()) for parameter in loaded.values())
        (folder / f"loaded-by-{os.environ['RANK']}.json").write_text(json.dumps(size))
        training_runs.build_model = build
        return model

    training_runs.build_model = noted


def main(results: Path, names: list[str]) -> None:
    models = json.loads((results / "models.json").read_text())
    for name in names:
        folder = results / name
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        folder.mkdir(exist_ok=True)
        note_what_is_loaded(folder)
        kind = ShardedOnCpu if name.startswith("fsdp") else RetrievalTrainer
        first = FirstGradient()
        config = settings(name, int(os.environ["WORLD_SIZE"]), folder, models)
        run = trainer(config, folder, kind=kind, callbacks=[first])
        run.train()
        finished = run.finished_model()
        again = run
        if name in RESUMED:
            again = trainer(config, folder, kind=kind)
            again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        if run.is_world_process_zero():
            facts = {
                "losses": logged(run), "resumed": logged(again),
                "modules": [type(module).__name__ for module in run.model_wrapped.modules()],
            }  # fmt: skip
            (folder / "facts.json").write_text(json.dumps(facts))
            save_file(finished.trained_weights(), folder / "weights.safetensors")
            save_file(first.gradient, folder / "gradient.safetensors")
        run.accelerator.wait_for_everyone()
    end_with_the_best(results / BEST, models, 2)
    end_with_the_best(results / START, models, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

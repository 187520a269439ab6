"""The run files and launch files in examples/training are ones that the package and accelerate take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyserini_llm_sparse.training.config.fields import AdaptConfig, RetrieveConfig
from pyserini_llm_sparse.training.config.run_file import load_config
from pyserini_llm_sparse.training.data.examples import Example
from tests.checkpoints import checkpoint, sentences
from tests.training_runs import logged, trainer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "training"
RUN_FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "accelerate")
LAUNCH_FILES = sorted((FOLDER / "accelerate").glob("*.yaml"))
PAPERS = [path for path in RUN_FILES if path.parent.name != "small"]


def phase(path: Path) -> str:
    """Files are named for their phase, and Lion's three retrievers for their objective."""
    return path.stem if path.stem in ("adapt", "retrieve", "mine", "score") else "retrieve"


def identifier(path: Path) -> str:
    return str(path.relative_to(FOLDER))


@pytest.mark.parametrize("path", RUN_FILES, ids=identifier)
def test_a_run_file_is_valid(path: Path) -> None:
    assert load_config(phase(path), path)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", RUN_FILES, ids=identifier)
def test_its_trainer_arguments_are_known_to_transformers(path: Path, tmp_path: Path) -> None:
    from pyserini_llm_sparse.training.config.arguments import training_arguments

    config = load_config(phase(path), path)  # type: ignore[arg-type]
    if not isinstance(config, AdaptConfig | RetrieveConfig):
        return
    on_cpu = {**config.trainer, "bf16": False, "use_cpu": True}
    arguments = training_arguments(config.model_copy(update={"trainer": on_cpu}), tmp_path, evaluates=True)
    assert arguments.learning_rate == config.trainer["learning_rate"]
    assert arguments.warmup_steps == config.trainer.get("warmup_steps", 0)


@pytest.mark.parametrize("path", RUN_FILES, ids=identifier)
def test_it_says_how_it_is_started(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"train {phase(path)} {path.relative_to(ROOT)}" in text


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's adapter, as Lion's adaptation leaves it."""
    from pyserini_llm_sparse.modelling.checkpoint import save_model
    from pyserini_llm_sparse.training.retriever.building import build_adaptation_model, starting_checkpoint

    folder = tmp_path_factory.mktemp("adapted")
    config = load_config("adapt", FOLDER / "lion/llama-3.2-1b/adapt.yaml", [f"model={checkpoint('without_spec')}"])
    start = starting_checkpoint(config)
    save_model(folder, build_adaptation_model(config, start).backbone.model, checkpoint("without_spec"))
    start.tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("path", PAPERS, ids=identifier)
def test_a_papers_file_trains_a_small_model_for_five_steps(path: Path, adapted: Path, tmp_path: Path) -> None:
    from pyserini_llm_sparse.training.config.arguments import training_arguments
    from pyserini_llm_sparse.training.data.packing import adaptation_data
    from pyserini_llm_sparse.training.loop.trainer import AdaptationTrainer
    from pyserini_llm_sparse.training.retriever.building import build_adaptation_model, starting_checkpoint

    config = load_config(phase(path), path)  # type: ignore[arg-type]
    arguments = {
        **config.trainer, "bf16": False, "use_cpu": True, "max_steps": 5, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1, "logging_steps": 1, "report_to": [], "save_steps": 100, "eval_steps": 100,
    }  # fmt: skip
    model = adapted if config.lora == "continue" else checkpoint("without_spec")
    config = config.model_copy(update={"model": str(model), "output": tmp_path / "out", "trainer": arguments})
    if isinstance(config, RetrieveConfig):
        run: Any = trainer(config, tmp_path, number=12)
    else:
        texts = tmp_path / "texts.txt"
        texts.write_text("\n".join(" ".join(sentences()[:200]) for _ in range(4)), encoding="utf-8")
        config = config.model_copy(update={"texts": (str(texts),), "held_out_texts": 0, "sequence_length": 64})
        start = starting_checkpoint(config)
        training, _, collator = adaptation_data(config, start)
        run = AdaptationTrainer(
            build_adaptation_model(config, start), training_arguments(config, tmp_path), config=config,
            train_dataset=training, data_collator=collator,
        )  # fmt: skip
    run.train()
    losses = logged(run)
    assert len(losses) == 5 and all(map(math.isfinite, losses))


@pytest.mark.parametrize("path", PAPERS, ids=identifier)
def test_a_papers_file_names_the_paper(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "arXiv 2" in text
    assert phase(path) == "adapt" or "# Expected" in text


def test_csplade_has_three_variants_by_one_field() -> None:
    path = FOLDER / "csplade/llama-3.2-1b/retrieve.yaml"
    variants = [
        load_config("retrieve", path, [f"attention={attention}"]).encoding_spec()
        for attention in ("causal", "echo", "bidirectional")
    ]
    assert variants[0].replace(attention="echo") == variants[1]
    assert variants[0].replace(attention="bidirectional") == variants[2]


def test_lions_retrievers_train_the_adapter_of_its_adaptation_on() -> None:
    folder = FOLDER / "lion/llama-3.2-1b"
    adapt = load_config("adapt", folder / "adapt.yaml")
    assert adapt.save == "adapter" and adapt.packed and adapt.mask_random_share == adapt.mask_kept_share == 0.1
    for name, steps in (("cl", 4750 * 7), ("kd", 525 * 56), ("cl-kd", 4750 * 7)):
        config = load_config("retrieve", folder / f"{name}.yaml")
        assert (config.model, config.lora, config.lora_dropout) == (str(adapt.output), "continue", 0.05)
        assert config.trainer["max_steps"] == steps


def test_laconics_second_stage_starts_from_its_first_under_the_released_contract() -> None:
    for folder in (FOLDER / "laconic").iterdir():
        first, second = (load_config("retrieve", folder / f"{name}.yaml") for name in ("pretrain", "finetune"))
        assert second.model == str(first.output)
        spec = second.encoding_spec()
        assert (spec.query_prefix, spec.document_prefix, spec.add_bos) == ("query: ", "passage: ", False)
        assert spec.query_top_k == spec.document_top_k == 512 and spec.attention == "bidirectional"


def test_lion_sparse_and_dense_differ_by_one_switch() -> None:
    for name in ("cl", "kd", "cl-kd"):
        path = FOLDER / "lion/llama-3.2-1b" / f"{name}.yaml"
        sparse = load_config("retrieve", path)
        dense = load_config("retrieve", path, ["representation=dense"])
        assert sparse.model_copy(update={"representation": "dense"}) == dense
        assert sparse.uses_teacher == ("kd" in name)
        assert sparse.uses_contrast == ("cl" in name)
        assert sparse.logit_scale == pytest.approx(2048**-0.25, abs=1e-5)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_a_launch_file_is_accelerates(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))  # refuses keys that it does not know
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed-zero2": "DEEPSPEED", "deepspeed-zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.stem]
    assert "accelerate launch --config_file examples/training/accelerate/" + path.name in path.read_text("utf-8")


def test_the_fsdp_file_asks_for_the_second_version() -> None:
    import argparse

    from accelerate.commands.launch import launch_command_parser

    settings = yaml.safe_load((FOLDER / "accelerate" / "fsdp.yaml").read_text("utf-8"))["fsdp_config"]
    parser: argparse.ArgumentParser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    assert settings["fsdp_version"] == 2
    assert settings.keys() <= known


def test_the_small_session_hangs_together() -> None:
    small = FOLDER / "small"
    mine, score, adapt, retrieve = (
        load_config(name, small / f"{name}.yaml")  # type: ignore[arg-type]
        for name in ("mine", "score", "adapt", "retrieve")
    )
    assert score.train == (str(mine.output),)
    assert retrieve.train == (str(score.output),)
    assert retrieve.model == str(adapt.output)
    assert retrieve.negatives == mine.negatives


def test_the_small_pairs_and_their_development_set_can_be_read_and_share_nothing() -> None:
    from pyserini_llm_sparse.training.data.sources import read_examples
    from pyserini_llm_sparse.training.results.evaluation import DevelopmentSet

    pairs: list[Example] = list(read_examples(str(FOLDER / "small" / "pairs.jsonl")))
    development = DevelopmentSet.load(FOLDER / "small" / "dev")
    assert len({pair.query for pair in pairs}) == len(pairs) == 40
    assert len(development.queries) == 8
    assert not set(development.documents) & {text for pair in pairs for text in pair.positives}


def test_the_scaling_studys_runs_cost_the_same() -> None:
    from examples.scaling.settings import TOKENS_OF_A_STEP, all_runs

    runs = all_runs(seeds=2)
    assert len({run.name for run in runs}) == len(runs) == 2 * 3 * 2 * 3
    for run in runs:
        cost = run.steps(4e12) * 6 * run.parameters * TOKENS_OF_A_STEP
        assert 0.97 * 4e12 < cost <= 4e12


def test_the_scaling_studys_sizes_are_those_of_the_models_that_are_made(tmp_path: Path) -> None:
    from examples.scaling.settings import SIZES
    from examples.study_material import random_llama, train_tokenizer

    tokenizer = train_tokenizer(["a few words are enough here"] * 3, 300)
    tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    for size in SIZES:
        model = random_llama(
            tmp_path / size.name, tmp_path / "tokenizer", layers=size.layers, hidden=size.hidden,
            feed_forward=size.feed_forward, heads=size.heads, tied=True, seed=0,
        )  # fmt: skip
        matrices = [weight.numel() for name, weight in model.model.layers.named_parameters() if weight.dim() == 2]
        assert sum(matrices) == size.body_parameters


def test_a_studys_material_keeps_the_development_set_out_of_training(tmp_path: Path) -> None:
    import gzip
    import json

    from examples.study_material import DEV_FOLDER, TRAIN_FILE, prepare
    from pyserini_llm_sparse.training.data.sources import read_examples
    from pyserini_llm_sparse.training.results.evaluation import DevelopmentSet

    (tmp_path / "train").mkdir()
    with gzip.open(tmp_path / "train" / "few.jsonl.gz", "wt") as stream:
        for number in range(60):
            stream.write(
                json.dumps({"query": f"question {number}", "positive": f"answer {number // 2} is here"}) + "\n"
            )
    prepare(tmp_path, ["few"], tmp_path / "out", pairs=30, dev_documents=10, dev_queries=4, vocabulary=300)
    trained = {text for pair in read_examples(str(tmp_path / "out" / TRAIN_FILE)) for text in pair.positives}
    development = DevelopmentSet.load(tmp_path / "out" / DEV_FOLDER)
    assert len(development.documents) == 10 and len(development.queries) == 4
    assert not trained & set(development.documents)
    assert len(trained) > 10
    answers = {document for judged in development.qrels.values() for document in judged}
    assert len(answers) <= 5  # half of the documents are distractors

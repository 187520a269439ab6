"""Run files are checked before anything is computed, and a wrong field is named with its line."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from transformers import TrainingArguments
from typer.testing import CliRunner

from pyserini_llm_sparse.cli import train
from pyserini_llm_sparse.cli.app import app
from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.fields import AdaptConfig, MineConfig, RetrieveConfig, ScoreConfig
from pyserini_llm_sparse.training.config.run_file import load_config
from pyserini_llm_sparse.training.config.spec_fields import NOT_IN_A_RUN_FILE, spec_field_names

RETRIEVE = "model: some/model\noutput: trained\ntrain: pairs.jsonl\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return written(tmp_path, RETRIEVE)


def test_a_run_file_of_three_lines_is_enough(run_file: Path) -> None:
    config = load_config("retrieve", run_file)
    assert (config.model, config.output, config.train) == ("some/model", Path("trained"), ("pairs.jsonl",))
    assert config.score_temperature == 1
    assert config.trains_head


def test_a_field_on_the_command_line_replaces_the_file_s_and_the_last_one_counts(tmp_path: Path) -> None:
    path = written(tmp_path, RETRIEVE + "seed: 1\ntrainer:\n  max_steps: 10\n  learning_rate: 1e-4\n")
    config = load_config("retrieve", path, ["seed=2", "seed=3", "trainer.max_steps=20", "lora-rank=8"])
    assert config.seed == 3
    assert config.lora_rank == 8
    assert config.trainer == {"max_steps": 20, "learning_rate": 1e-4}


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.0e-4", "0.0001"])
def test_a_number_is_a_number_however_it_is_written(tmp_path: Path, number: str) -> None:
    path = written(tmp_path, RETRIEVE + f"trainer:\n  learning_rate: {number}\n")
    assert load_config("retrieve", path).trainer["learning_rate"] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sed: 3", r"run.yaml:4: sed: no such field"),
        ("negatives: -1", r"run.yaml:4: negatives: .*greater than or equal to 0"),
        ("seed: [", r"run.yaml:5: not YAML"),
        ("train: other.jsonl", r"run.yaml:4: train: given twice"),
        ("trainer: {neftune_noise_alpha: 5}", r"run.yaml.*neftune_noise_alpha: noise on the embeddings .*; leave out"),
        ("trainer: {use_liger_kernel: true}", r"run.yaml.*use_liger_kernel: its kernels"),
        ("trainer: {train_sampling_strategy: group_by_length}", r"run.yaml.*group_by_length: texts of one length"),
        ("trainer: {group_by_length: true}", r"run.yaml.*group_by_length: set by the phase itself"),
        ("trainer: {output_dir: x}", r"run.yaml.*output_dir: set by the phase itself"),
        ("save: adapter", r"save: adapter: nothing but whole weights is trained"),
        ("{save: adapter, lora_rank: 8, train_head: true}", r"not YAML"),
        ("streaming: true", r"max_steps: needed with streaming"),
        ("objective: distillation", r"negatives: 0: kl over a positive alone"),
        ("in_batch_negatives: false", r"negatives: 0: without in_batch_negatives"),
        ("false_negative_margin: 1", r"false_negative_margin: there are no hard negatives"),
        ("training_top_k: 0", r"training_top_k: a number of terms, 1 or more"),
        ("training_top_k: [8, 8]", r"training_top_k: a number of terms, 1 or more, or a list of different ones"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_config("retrieve", written(tmp_path, RETRIEVE + line + "\n"))
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model: missing.*run.yaml:1: negatives.*run.yaml:2: seed"):
        load_config("retrieve", written(tmp_path, "negatives: -1\nseed: x\noutput: o\ntrain: p\n"))


def test_a_wrong_override_is_a_usage_error(run_file: Path) -> None:
    for override, message in (("seed", "field=value"), ("seed=x", "command line: seed"), ("sed=1", "no such field")):
        with pytest.raises(UsageError, match=message):
            load_config("retrieve", run_file, [override])


def test_a_run_file_that_is_not_there_or_no_mapping_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot read the run file"):
        load_config("retrieve", tmp_path / "none.yaml")
    with pytest.raises(DataError, match="`field: value`"):
        load_config("retrieve", written(tmp_path, "- a\n- b\n"))


def test_a_dense_run_needs_no_sparse_settings_and_refuses_inference_free_queries(run_file: Path) -> None:
    assert load_config("retrieve", run_file, ["representation=dense"]).score_temperature == 0.02
    with pytest.raises(UsageError, match="a dense query needs the model"):
        load_config("retrieve", run_file, ["representation=dense", "query_encoder=inference-free"])


def test_adaptation_by_next_tokens_needs_causal_attention() -> None:
    fields = ["model=m", "output=o", "texts=t"]
    with pytest.raises(UsageError, match="sees the next token"):
        load_config("adapt", None, fields)
    assert isinstance(load_config("adapt", None, [*fields, "attention=causal"]), AdaptConfig)
    assert load_config("adapt", None, [*fields, "objective=masked-next-token"]).attention == "bidirectional"


def test_budgets_of_terms_are_one_or_several() -> None:
    fields = ["model=m", "output=o", "train=t"]
    given = ["training_top_k=64", "training_top_k=[64, 256, null]"]
    assert [load_config("retrieve", None, [*fields, *more]).training_budgets for more in ([], given[:1], given)] == [
        (None,), (64,), (64, 256, None)
    ]  # fmt: skip


def test_mining_and_scoring_need_little() -> None:
    assert load_config("mine", None, ["train=a", "output=o"]) == MineConfig(train=("a",), output=Path("o"))
    scoring = load_config("score", None, ["train=[a, b]", "output=o", "teacher=t"])
    assert scoring == ScoreConfig(train=("a", "b"), output=Path("o"), teacher="t")


def test_the_spec_of_a_run_is_what_its_fields_say() -> None:
    config = RetrieveConfig(
        model="m", output=Path("o"), train=("t",), attention="echo", add_eos=True, query_prefix="query: ",
        query_top_k=64, document_max_length=512, logit_scale=0.15, excluded_token_ids=(1, 2),
    )  # fmt: skip
    assert config.encoding_spec() == EncodingSpec(
        attention="echo", add_eos=True, query_prefix="query: ", query_top_k=64, document_max_length=512,
        logit_scale=0.15, excluded_token_ids=(1, 2),
    )  # fmt: skip


def test_what_is_left_open_is_taken_from_the_model_that_training_starts_from() -> None:
    spec = EncodingSpec(
        attention="causal", query_encoder="inference-free", query_term_counts=True, query_prefix="q: ", add_bos=False,
        excluded_token_ids=(0, 5),
    )  # fmt: skip
    config = RetrieveConfig(model="m", output=Path("o"), train=("t",), query_prefix="", negatives=1)
    assert config.continuing(spec).encoding_spec() == spec.replace(query_prefix="")
    by_model = RetrieveConfig(model="m", output=Path("o"), train=("t",), query_encoder="model").continuing(spec)
    assert by_model.encoding_spec().query_encoder == "model"
    dense = RetrieveConfig(model="m", output=Path("o"), train=("t",), representation="dense").continuing(spec)
    assert dense.query_encoder == "model"


def a_run(**fields: Any) -> RetrieveConfig:
    return RetrieveConfig(**{"model": "m", "output": Path("o"), "train": ("t",), **fields})


def another_value(field: FieldInfo) -> Any:
    """A value of a field's type that is not its default."""
    samples = (*get_args(field.annotation), True, False, 7, 0.5, "text: ", (3, 9))
    for sample in samples:
        try:
            found = TypeAdapter(Annotated[field.annotation, field]).validate_python(sample, strict=True)
        except ValidationError:
            continue
        if found != field.default:
            return found
    return field.default  # the only one that there is


def test_every_field_of_the_spec_is_in_the_run_file_or_is_left_out_for_a_reason() -> None:
    assert set(NOT_IN_A_RUN_FILE) == {"version", "model_fingerprint"}
    assert set(EncodingSpec.model_fields) - set(RetrieveConfig.model_fields) == set(NOT_IN_A_RUN_FILE)
    for name in set(EncodingSpec.model_fields) - set(NOT_IN_A_RUN_FILE):
        of_spec, of_run = EncodingSpec.model_fields[name], RetrieveConfig.model_fields[name]
        assert (of_run.annotation, of_run.metadata) == (of_spec.annotation, of_spec.metadata), name
        assert of_run.description == of_spec.description, name
        if name not in ("attention", "query_term_counts"):  # which the phase has a default for
            assert of_run.default == of_spec.default, name


def test_every_field_that_the_run_file_leaves_open_is_the_model_s() -> None:
    fields = {name: another_value(EncodingSpec.model_fields[name]) for name in spec_field_names()}
    spec = EncodingSpec(**fields)
    default = EncodingSpec(attention="bidirectional")
    assert set(spec.difference(default)) == set(spec_field_names()) - {"activation"}  # of which there is one
    assert a_run().continuing(spec).encoding_spec() == spec


def test_every_field_that_the_run_file_gives_replaces_the_model_s() -> None:
    fields = {name: another_value(EncodingSpec.model_fields[name]) for name in spec_field_names()}
    start = EncodingSpec(attention="bidirectional", impact_maximum=1000)
    assert a_run(**fields).continuing(start).encoding_spec() == EncodingSpec(**fields)


def test_how_often_a_term_of_a_table_counts_is_the_model_s_only_if_it_has_a_table() -> None:
    by_model = EncodingSpec(attention="causal")
    by_table = EncodingSpec(attention="causal", query_encoder="inference-free", query_term_counts=False)
    wants_table = a_run(query_encoder="inference-free")
    assert wants_table.continuing(by_model).encoding_spec().query_term_counts is True
    assert wants_table.continuing(by_table).encoding_spec().query_term_counts is False
    assert a_run().continuing(by_model).encoding_spec() == by_model


LATER_SPEC = """
from pydantic import Field
from pyserini_llm_sparse.modelling import spec

class LaterSpec(spec.EncodingSpec):
    expansion_limit: int = Field(default=3, ge=1, description="Of a later version.")

spec.EncodingSpec = LaterSpec

from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.training.config.run_file import load_config

fields = ["model=m", "output=o", "train=t"]
start = LaterSpec(attention="causal", expansion_limit=8)
print(load_config("retrieve", None, fields).encoding_spec().expansion_limit)
print(load_config("retrieve", None, fields).continuing(start).encoding_spec().expansion_limit)
print(load_config("retrieve", None, [*fields, "expansion_limit=5"]).continuing(start).encoding_spec().expansion_limit)
main(["train", "retrieve", "--help"])
"""


def test_a_field_that_a_later_spec_has_is_in_the_run_file_by_itself(root: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", LATER_SPEC]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[:3] == ["3", "8", "5"]
    assert re.search(r"--expansion-limit N +Of a later version\. \[3\]", run.stdout)


def test_the_help_is_in_groups_and_shows_no_unset_value() -> None:
    run = CliRunner().invoke(app, ["train", "retrieve", "--help"], terminal_width=200)
    titles = re.findall(r"^(\w.*):$", run.output, re.MULTILINE)
    assert titles == ["Arguments", "The run", "Data", "Model", "LoRA", "Evaluation", "Method",
                      "Vectors (the encoding spec)", "Trainer"]  # fmt: skip
    assert "None" not in run.output and "[]" not in run.output
    vectors = run.output.partition("Vectors (the encoding spec):")[2].partition("Trainer:")[0]
    assert "--query-prefix" in vectors and "--lora-rank" not in vectors


def test_usual_arguments_of_the_trainer_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(train, "_run", lambda phase, config, overrides, overwrite: given.extend(overrides))
    run = CliRunner().invoke(app, ["train", "adapt", "--max-steps", "7", "--trainer", "optim=sgd", "--bf16", "true"])
    assert run.exit_code == 0, run.output
    assert sorted(given) == ["trainer.bf16=true", "trainer.max_steps=7", "trainer.optim=sgd"]
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert train.TRAINER_OPTIONS.keys() - fields <= {"gradient_checkpointing"}  # renamed in transformers 5.23


def test_development_sets_have_splits_and_names_of_their_own(tmp_path: Path, run_file: Path) -> None:
    for name in ("a/dev", "b/dev", "c"):
        (tmp_path / name).mkdir(parents=True)
    a, b, c = (str(tmp_path / name) for name in ("a/dev", "b/dev", "c"))
    assert a_run().dev_sets == {} and a_run(dev=Path(a)).dev_sets == {"dev, dev": (a, "dev")}
    several = load_config("retrieve", run_file, [f"dev=[{a}, {b}, '{c}#test']"])
    assert several.dev_sets == {"dev, dev": (a, "dev"), f"{b}, dev": (b, "dev"), "c, test": (c, "test")}

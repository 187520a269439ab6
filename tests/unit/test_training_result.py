"""What a training phase saves gives the vectors that were trained, and says where they come from."""

from __future__ import annotations

import dataclasses
import html
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.modelling.spec import EncodingSpec, Side
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.fields import AdaptConfig, RetrieveConfig
from pyserini_llm_sparse.training.config.run_file import load_config
from pyserini_llm_sparse.training.results.development_set import DevelopmentSet
from pyserini_llm_sparse.training.results.evaluation import evaluate
from pyserini_llm_sparse.training.results.model_card import model_card
from pyserini_llm_sparse.training.results.plots import panels, plot_training
from pyserini_llm_sparse.training.results.provenance import TrainingRecord, environment
from pyserini_llm_sparse.training.results.result import require_expressible, save_adaptation, save_result
from pyserini_llm_sparse.training.retriever.building import build_adaptation_model, build_model, starting_checkpoint
from pyserini_llm_sparse.training.retriever.model import RetrievalModel
from pyserini_llm_sparse.training.run import retrieve
from tests.checkpoints import TEXTS, checkpoint, copied
from tests.training_runs import write_beir

LOG: list[dict[str, Any]] = [
    {"loss": 2.5, "contrastive": 2.4, "query_regulariser": 0.0, "document_regulariser": 0.1, "step": 10, "epoch": 0.1,
     "query_active_terms": 300.0, "document_active_terms": 900.0, "query_cosine": 0.4, "dead_queries": 0.0,
     "learning_rate": 1e-5, "grad_norm": 3.0},
    {"eval_nDCG@10": 0.5, "eval_RR@10": 0.6, "eval_query_active_terms": 90.0, "eval_runtime": 3.0, "step": 10},
    {"loss": 1.5, "contrastive": 1.4, "query_regulariser": 0.02, "document_regulariser": 0.08, "step": 20,
     "epoch": 0.2, "query_active_terms": 200.0, "document_active_terms": 400.0, "grad_norm": float("nan")},
    {"eval_nDCG@10": 0.55, "eval_RR@10": 0.62, "eval_query_active_terms": 70.0, "eval_runtime": 3.0, "step": 20},
    {"train_runtime": 12.0, "train_loss": 2.0, "step": 20},
]  # fmt: skip


def a_record(config: Any, **known: Any) -> TrainingRecord:
    facts: dict[str, Any] = {
        "environment": environment(),
        "data": [{"name": "/somewhere/private/pairs.jsonl", "bytes": 1234567, "examples": 100, "sha256": "0" * 64}],
        "measures": {"nDCG@10": 0.55123, "query_active_terms": 70.04},
        "facts": {"optimiser steps": 20},
        "seconds": 3725.0,
    }
    return TrainingRecord(config, **{**facts, **known})


def a_config(output: Path, **fields: Any) -> RetrieveConfig:
    attention = fields.setdefault("attention", "bidirectional")
    settings = {"model": str(checkpoint(f"llama_{attention}")), "train": ("x.jsonl",), "output": output}
    return RetrieveConfig(**{**settings, "query_max_length": 16, "document_max_length": 16, **fields})


def trained(config: RetrieveConfig) -> tuple[RetrievalModel, Any]:
    """A model as after training: its adapter does something. Returns it with the tokenizer."""
    start = starting_checkpoint(config)
    model = build_model(config, start)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval(), start.tokenizer


def vectors(model: RetrievalModel, tokenizer: Any, side: Side) -> np.ndarray:
    tokenization = Tokenization(tokenizer, model.spec, model.backbone.vocabulary_size)
    batch = tokenization.batch(tokenization.token_ids(TEXTS, side))
    arguments: dict[str, Tensor] = {f"{side}_{name}": tensor for name, tensor in batch._asdict().items()}
    with torch.no_grad():
        found = model(**arguments)[side == "document"]
    return np.asarray(found.numpy())


def assert_same_sparse_vectors(output: Path, queries: np.ndarray, documents: np.ndarray) -> SparseEncoder:
    encoder = SparseEncoder.load(str(output), device="cpu")
    assert np.count_nonzero(documents) > 50
    # A merged adapter adds the same numbers in another order.
    np.testing.assert_allclose(encoder.encode_queries(TEXTS).matrix.toarray(), queries, atol=5e-5)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS).matrix.toarray(), documents, atol=5e-5)
    return encoder


@pytest.mark.parametrize("attention", ["causal", "echo", "bidirectional"])
def test_a_sparse_result_encodes_as_the_trained_model(tmp_path: Path, attention: str) -> None:
    config = a_config(tmp_path / "result", attention=attention, logit_scale=0.7, add_eos=True, query_prefix="query: ",
                      document_prefix="passage: ", pooled_span="text", excluded_token_ids=(5, 40))  # fmt: skip
    model, tokenizer = trained(config)
    expected = vectors(model, tokenizer, "query"), vectors(model, tokenizer, "document")
    assert save_result(model, tokenizer, a_record(config)) == config.output
    encoder = assert_same_sparse_vectors(config.output, *expected)
    assert encoder.spec.difference(config.encoding_spec()).keys() == {"model_fingerprint"}


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_a_lora_result_encodes_as_the_trained_model(tmp_path: Path, save: str) -> None:
    base = checkpoint("without_spec")
    config = a_config(tmp_path / "result", model=str(base), lora_rank=4, save=save)
    model, tokenizer = trained(config)
    expected = vectors(model, tokenizer, "query"), vectors(model, tokenizer, "document")
    start = vectors(trained(config.model_copy(update={"lora_rank": None}))[0], tokenizer, "document")
    assert np.abs(start - expected[1]).max() > 0.1  # the adapter does something
    save_result(model, tokenizer, a_record(config))
    assert_same_sparse_vectors(config.output, *expected)
    assert (config.output / "model.safetensors").is_file() is (save == "merged")
    if save == "adapter":
        adapter = json.loads((config.output / "adapter_config.json").read_text(encoding="utf-8"))
        assert adapter["base_model_name_or_path"] == str(base)
        assert "lora" in card_header(config.output)["tags"]


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_an_adapter_of_the_phase_before_goes_on_being_trained_itself(tmp_path: Path, save: str) -> None:
    base = checkpoint("without_spec")
    first = AdaptConfig(
        model=str(base), output=tmp_path / "adapted", texts=("x",), lora_rank=4, lora_alpha=8, save="adapter",
        objective="masked-next-token",
    )  # fmt: skip
    start = starting_checkpoint(first)
    adapted = build_adaptation_model(first, start)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    save_adaptation(adapted, start.tokenizer, a_record(first))
    config = a_config(tmp_path / "result", model=str(first.output), lora="continue", lora_dropout=0.05, save=save)
    require_expressible(config)
    model = build_model(config)
    found, before = model.trained_weights(), adapted.trained_weights()
    assert found.keys() == before.keys() and all(torch.equal(found[name], before[name]) for name in found)
    settings = model.backbone.model.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (4, 8, 0.05)
    model, tokenizer = trained(config)
    expected = vectors(model, tokenizer, "query"), vectors(model, tokenizer, "document")
    save_result(model, tokenizer, a_record(config))
    assert_same_sparse_vectors(config.output, *expected)
    if save == "adapter":
        adapter = json.loads((config.output / "adapter_config.json").read_text(encoding="utf-8"))
        assert adapter["base_model_name_or_path"] == str(base)


def test_only_an_adapter_can_go_on_being_trained(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result", lora="continue")
    assert config.uses_lora and not config.trains_head
    with pytest.raises(UsageError, match="lora: continue: it is no adapter; set lora_rank"):
        build_model(config)
    with pytest.raises(ValueError, match="lora_rank: the adapter that is trained on has its own"):
        a_config(tmp_path / "result", lora="continue", lora_rank=8)


def test_an_adapter_finds_its_base_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied("without_spec", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    config = a_config(Path("result"), model="base", lora_rank=4, save="adapter")
    model, tokenizer = trained(config)
    expected = vectors(model, tokenizer, "query"), vectors(model, tokenizer, "document")
    save_result(model, tokenizer, a_record(config))
    monkeypatch.chdir("/")
    assert_same_sparse_vectors(tmp_path / "result", *expected)


def test_an_inference_free_result_carries_its_table(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result", model=str(checkpoint("inference_free")), query_encoder="inference-free",
                      excluded_token_ids=(300,))  # fmt: skip
    model, tokenizer = trained(config)
    with torch.no_grad():
        assert model.query_weights is not None
        model.query_weights.mul_(1.5)
    expected = vectors(model, tokenizer, "query"), vectors(model, tokenizer, "document")
    save_result(model, tokenizer, a_record(config))
    assert np.count_nonzero(expected[0]) > 20
    assert_same_sparse_vectors(config.output, *expected)


@pytest.mark.parametrize("pooling", ["last-token", "mean", "normalised-mean"])
@pytest.mark.parametrize(
    ("name", "framing"),
    [
        ("llama_causal", {}),
        ("mistral_bidirectional", {"add_eos": True, "query_prefix": "query: ", "document_prefix": "passage: "}),
        ("qwen3_bidirectional", {"add_bos": False, "lora_rank": 4}),
    ],
)
def test_a_dense_result_encodes_in_sentence_transformers_as_the_trained_model(
    tmp_path: Path, pooling: str, name: str, framing: dict[str, Any]
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers reads the dense result")
    if pooling == "normalised-mean" and int(library.__version__.split(".")[0]) < 6:
        pytest.skip("sentence-transformers scales the states of tokens from version 6 on")
    config = a_config(tmp_path / "result", model=str(checkpoint(name)), attention=name.partition("_")[2],
                      representation="dense", dense_pooling=pooling, **framing)  # fmt: skip
    model, tokenizer = trained(config)
    queries, documents = vectors(model, tokenizer, "query"), vectors(model, tokenizer, "document")
    save_result(model, tokenizer, a_record(config))
    loaded = library.SentenceTransformer(str(config.output), device="cpu")
    np.testing.assert_allclose(loaded.encode_query(list(TEXTS)), queries, atol=1e-5)
    np.testing.assert_allclose(loaded.encode_document(list(TEXTS)), documents, atol=1e-5)
    np.testing.assert_allclose(loaded.encode_document([TEXTS[3]])[0], documents[3], atol=1e-5)  # without padding
    assert loaded.similarity_fn_name == ("dot" if pooling == "normalised-mean" else "cosine")


def test_the_direction_of_attention_is_part_of_a_dense_result(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers reads the dense result")
    found = {}
    for attention in ("causal", "bidirectional"):
        config = a_config(tmp_path / attention, model=str(checkpoint("without_spec")), attention=attention,
                          representation="dense", dense_pooling="mean")  # fmt: skip
        save_result(*trained(config), a_record(config))
        found[attention] = library.SentenceTransformer(str(config.output), device="cpu").encode(list(TEXTS))
    assert np.abs(found["causal"] - found["bidirectional"]).max() > 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "echo"}, "attention: echo: .*set attention: causal or bidirectional"),
        ({"save": "adapter", "lora_rank": 4}, "save: adapter: .*set save: merged"),
        ({"pooled_span": "text", "dense_pooling": "mean"}, "pooled_span: text: .*set pooled_span: all"),
        ({"pooled_span": "text", "add_eos": True}, "pooled_span: text: .*set pooled_span: all"),
    ],
)
def test_a_dense_run_that_could_not_be_saved_is_refused_before_it_starts(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        require_expressible(a_config(tmp_path / "result", representation="dense", **fields))


def test_a_dense_run_that_can_be_saved_is_not_refused(tmp_path: Path) -> None:
    require_expressible(a_config(tmp_path / "result", representation="dense", pooled_span="text"))
    require_expressible(a_config(tmp_path / "result", attention="echo"))


def test_an_adapter_over_an_adapter_is_refused_before_the_run_starts(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result", model=str(checkpoint("adapter")), lora_rank=4, save="adapter")
    with pytest.raises(UsageError, match="is an adapter itself"):
        require_expressible(config)


def test_a_directory_that_holds_something_else_is_refused_before_the_run_starts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="there are files but no checkpoint"):
        require_expressible(a_config(tmp_path))


def test_retrieve_starts_from_an_adapted_model(tmp_path: Path) -> None:
    adapt = AdaptConfig(model=str(checkpoint("without_spec")), texts=("x",), output=tmp_path / "adapted",
                        attention="causal", lora_rank=4)  # fmt: skip
    start = starting_checkpoint(adapt)
    model = build_adaptation_model(adapt, start)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model.eval().backbone.hidden(ids, torch.ones_like(ids))
    save_adaptation(model, start.tokenizer, a_record(adapt, measures={}))

    config = a_config(tmp_path / "result", model=str(adapt.output), attention="causal")
    again = build_model(config).eval()
    with torch.no_grad():
        found = again.backbone.hidden(ids, torch.ones_like(ids))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert load_config("adapt", adapt.output / "training" / "config.yaml") == adapt
    assert card_header(adapt.output)["pipeline_tag"] == "text-generation"


def test_the_run_file_in_the_result_reads_back_to_the_same(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result", query_prefix="Frage: 東京 ", regulariser_ramp=1e-05, query_top_k=64,
                      trainer={"learning_rate": 1e-05, "max_steps": 20, "bf16": False})  # fmt: skip
    save_result(*trained(config), a_record(config))
    assert load_config("retrieve", config.output / "training" / "config.yaml") == config


def test_the_record_holds_versions_data_log_and_figure(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result")
    save_result(*trained(config), a_record(config, log=LOG))
    folder = config.output / "training"
    about = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert {"python", "torch", "transformers", "peft", "accelerate", "device", "processes"} <= about.keys()
    assert about["torch"] == torch.__version__
    assert json.loads((folder / "data.json").read_text(encoding="utf-8"))[0]["sha256"] == "0" * 64
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert log[0] == LOG[0]
    assert log[2]["grad_norm"] is None  # not a number
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert all(path.stat().st_mode & 0o044 for path in config.output.rglob("*"))


def test_a_figure_is_made_from_the_log(tmp_path: Path) -> None:
    titles = {panel.title: set(panel.series) for panel in panels(LOG)}
    assert titles == {
        "Loss and its parts": {"loss", "contrastive", "query regulariser", "document regulariser"},
        "Active terms": {"query", "document", "query, development set"},
        "Development set": {"nDCG@10", "RR@10"},
        "Signs of collapse": {"query cosine", "dead queries"},
    }
    assert plot_training(LOG, tmp_path / "training.png") == tmp_path / "training.png"
    assert plot_training([{"train_runtime": 1.0, "step": 3}], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_a_model_is_trained_further_under_its_own_spec(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = copied("llama_causal", tmp_path / "start")
    EncodingSpec.load(start).replace(impact_maximum=255, term_naming="id", query_prefix="query: ").save(start)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"query": "{text}", "positive": "{text} again"}}\n' for text in ("a", "b", "c", "d")))
    trainer = {"use_cpu": True, "max_steps": 1, "per_device_train_batch_size": 4, "report_to": []}
    config = RetrieveConfig(model=str(start), train=(str(pairs),), output=tmp_path / "result", stop_on_collapse=False,
                            query_prefix="", trainer=trainer)  # fmt: skip
    with caplog.at_level(logging.WARNING):
        retrieve(config)
    assert "nothing was measured" in caplog.text
    spec = EncodingSpec.load(config.output)
    assert (spec.impact_maximum, spec.term_naming, spec.query_prefix) == (255, "id", "")
    assert set(spec.difference(EncodingSpec.load(start))) == {"query_prefix", "model_fingerprint"}
    impacts = SparseEncoder.load(str(config.output), device="cpu").document_impacts(TEXTS[:3])
    assert impacts[0] and all(term.isdecimal() and impact <= 255 for text in impacts for term, impact in text.items())


def as_float16(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    save_file({name: one.half() for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**settings, "dtype": "float16"}), encoding="utf-8")
    (folder / "encoding_spec.json").unlink(missing_ok=True)
    return folder


def test_fine_tuning_says_what_it_changed_and_keeps_the_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = as_float16(copied("llama_causal", tmp_path / "start"))
    beir = write_beir(tmp_path / "collection")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"query": "{text}", "positive": "{text} again"}}\n' for text in ("a", "b", "c", "d")))
    trainer = {"use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 4, "report_to": [], "eval_steps": 1,
               "learning_rate": 0.5, "disable_tqdm": True}  # fmt: skip
    config = a_config(tmp_path / "result", model=str(start), attention="causal", train=(str(pairs),), dev=beir,
                      stop_on_collapse=False, lora_rank=4, trainer=trainer, start_is_candidate=False)  # fmt: skip
    report = retrieve(config)
    output = config.output
    assert (output / "model.safetensors").stat().st_size <= 1.01 * (start / "model.safetensors").stat().st_size
    about = json.loads((output / "training/environment.json").read_text(encoding="utf-8"))
    change = report.changes[0]
    assert about["changes"]["nDCG@10"] == dataclasses.asdict(change)
    assert change.before > change.after and change.queries == 20  # half a unit a step leaves nothing of a model
    assert f"{change.shown()} over 20 queries" in report.summary()
    assert f"training has made it worse: {change.shown()}" in caplog.text
    card = html.unescape((output / "README.md").read_text(encoding="utf-8"))
    assert f"| nDCG@10 | {change.after:.4f} | {change.before:.4f} | {change.interval()} |" in card
    assert "**Training has made it worse: nDCG@10 0." in card

    tokenization = Tokenization(starting_checkpoint(config).tokenizer, EncodingSpec.load(output), None)
    again = evaluate(build_model(a_config(tmp_path / "x", model=str(output), attention="causal")), tokenization,
                     DevelopmentSet.load(beir))  # fmt: skip
    assert again["nDCG@10"] == change.after  # of the rounded weights
    log = [json.loads(line) for line in (output / "training/metrics.jsonl").read_text("utf-8").splitlines()]
    assert next(line for line in log if "eval_nDCG@10" in line)["step"] == 0

    caplog.clear()
    own = {**config.model_dump(), "output": tmp_path / "other", "start_is_candidate": True, "save_dtype": "float32"}
    report = retrieve(RetrieveConfig(**own))
    assert report.changes[0].before == report.changes[0].after
    assert "no checkpoint measured better than the start" in caplog.text
    assert load_file(tmp_path / "other/model.safetensors")["model.norm.weight"].dtype == torch.float32


class Unwritable:
    """A fact that cannot be written down, so that a save fails in its middle."""

    def __str__(self) -> str:
        raise RuntimeError("cannot be written")


@pytest.mark.parametrize("representation", ["sparse", "dense"])
def test_an_interrupted_save_leaves_the_earlier_result(tmp_path: Path, representation: str) -> None:
    config = a_config(tmp_path / "result", representation=representation)
    model, tokenizer = trained(config)
    save_result(model, tokenizer, a_record(config))
    before = {path: path.read_bytes() for path in sorted(config.output.rglob("*")) if path.is_file()}
    with torch.no_grad():
        model.backbone.head_weight.mul_(2)
        next(model.parameters()).mul_(2)
    with pytest.raises(TypeError):
        save_result(model, tokenizer, a_record(config, facts={"unwritable": Unwritable()}))
    assert {path: path.read_bytes() for path in sorted(config.output.rglob("*")) if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["result"]

    save_result(model, tokenizer, a_record(config))
    assert (config.output / "model.safetensors").read_bytes() != before[config.output / "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def card_header(folder: Path) -> dict[str, Any]:
    return header_of((folder / "README.md").read_text(encoding="utf-8"))


def header_of(card: str) -> dict[str, Any]:
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert body.startswith("\n# ")
    header: dict[str, Any] = yaml.safe_load(head)
    return header


def test_the_card_states_facts_and_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result", trainer={"learning_rate": 2e-05}, document_top_k=20)
    save_result(*trained(config), a_record(config, log=LOG))
    card = (config.output / "README.md").read_text(encoding="utf-8")
    header = card_header(config.output)
    assert header["pipeline_tag"] == "feature-extraction"
    assert {"sparse", "csplade"} <= set(header["tags"])
    assert "base_model" not in header
    assert "license" not in header
    spec = EncodingSpec.load(config.output)
    for line in (
        "| document_top_k | 20 |",
        f"| model_fingerprint | {spec.model_fingerprint} |",
        "| learning_rate | 2e-05 |",
        "| optimiser steps | 20 |",
        "| wall time | 1 h 02 min |",
        "| `pairs.jsonl` | 100 | 1,234,567 |",
        "| nDCG@10 | 0.5512 |",
        "--encoder PATH_OF_THIS_DIRECTORY",
    ):
        assert line in card
    assert "/somewhere" not in card
    assert str(tmp_path) not in card
    assert "None" not in card


def test_what_is_not_known_is_left_out_of_the_card(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result")
    save_result(*trained(config), TrainingRecord(config))
    card = (config.output / "README.md").read_text(encoding="utf-8")
    for heading in ("wall time", "hardware", "## Development set", "| data |", "training.png"):
        assert heading not in card
    assert not (config.output / "training" / "training.png").exists()
    assert (config.output / "training" / "metrics.jsonl").read_bytes() == b""


def test_the_licence_is_that_of_the_base_model_where_its_card_says_it(tmp_path: Path) -> None:
    base = copied("without_spec", tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: llama3\n---\n# Base\n", encoding="utf-8")
    config = a_config(tmp_path / "result", model=str(base))
    save_result(*trained(config), a_record(config))
    header = card_header(config.output)
    assert (header["license"], header["license_name"]) == ("other", "llama3")
    assert "licence" not in (config.output / "README.md").read_text(encoding="utf-8")


def test_the_base_model_is_named_if_it_is_on_the_hub(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result", model="meta-llama/Llama-3.2-1B", lora_rank=4, save="adapter")
    header = header_of(model_card(a_record(config), config.encoding_spec()))
    assert (header["base_model"], header["base_model_relation"]) == ("meta-llama/Llama-3.2-1B", "adapter")


def test_licence_and_language_are_the_base_model_s_and_the_licence_may_be_in_its_configuration(tmp_path: Path) -> None:
    base = copied("without_spec", tmp_path / "base")
    (base / "README.md").write_text("---\nlanguage:\n- en\n- de\n---\n# Base\n", encoding="utf-8")
    settings = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**settings, "license": "apache-2.0"}), encoding="utf-8")
    config = a_config(tmp_path / "result", model=str(base))
    header = header_of(model_card(a_record(config), config.encoding_spec()))
    assert (header["license"], header["language"]) == ("apache-2.0", ["en", "de"])


def test_the_licence_of_a_base_model_on_the_hub_is_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--org--base"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc", encoding="utf-8")
    (cached / "snapshots" / "abc" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    for model, licence in (("org/base", "mit"), ("csplade:org/base", "mit"), ("org/other", None)):
        config = a_config(tmp_path / "result", model=model)
        header = header_of(model_card(a_record(config), config.encoding_spec()))
        assert (header.get("license"), header["base_model"]) == (licence, model.removeprefix("csplade:"))


def test_the_header_lists_what_was_measured_and_the_hub_s_library_reads_it(tmp_path: Path) -> None:
    config = a_config(tmp_path / "result", dev=tmp_path / "scifact", dev_split="test")
    found = ModelCard(model_card(a_record(config), config.encoding_spec())).data
    assert found.model_name == "result"
    measured = {result.metric_name: result for result in found.eval_results}
    assert {name: result.metric_value for name, result in measured.items()} == {
        "nDCG@10": 0.5512,
        "query active terms": 70.0,
    }
    assert {(one.dataset_name, one.dataset_split, one.task_type) for one in measured.values()} == {
        ("scifact", "test", "sparse-information-retrieval")
    }
    unmeasured = header_of(model_card(a_record(config, measures={}), config.encoding_spec()))
    assert not {"model-index", "model_name", "eval_results"} & unmeasured.keys()


def test_no_name_or_value_breaks_a_table_of_the_card(tmp_path: Path) -> None:
    prefix = "Instruct: a|b\\|c `d`\n- Query: "
    config = a_config(tmp_path / "x|y *z*", dev=tmp_path / "a|b\n# c", query_prefix=prefix,
                      trainer={"lr_scheduler_type": "a|b\n| c |"})  # fmt: skip
    data = [{"name": "pairs|`1`.jsonl", "examples": 3}, {"name": "plain.jsonl", "examples": 4, "revision": "x|y"}]
    record = a_record(config, data=data, facts={"a|fact": "<b>|</b>"}, measures={"nDCG@10|x": 0.5})
    card = model_card(record, config.encoding_spec())
    lines = card.partition("\n# ")[2].splitlines()
    columns = 0
    for line in lines:
        columns = columns or line.count("|") - 1 if line.startswith("|") else 0
        assert line.count("|") == (columns + 1 if columns else 0), line
    rows = [line for line in lines if line.startswith("|")]
    fields = [line.split("|")[1].strip() for line in rows]
    assert fields.count("query_prefix") == fields.count("lr_scheduler_type") == fields.count("`plain.jsonl`") == 1
    shown = html.unescape(next(line for line in rows if "query_prefix" in line))
    assert repr(prefix) in shown
    assert [line for line in lines if line.startswith("#")] == [
        "## Usage", "## Contract", "## Training", "## Development set: a&#124;b # c, dev", "## Limits"
    ]  # fmt: skip
    assert "<b>" not in card

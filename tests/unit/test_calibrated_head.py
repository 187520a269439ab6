"""The calibrated head: fitted without training, the same language model, carried along by training and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from pyserini_llm_sparse.cli.app import app
from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.modelling.head_shift import HEAD_SHIFT_FILE
from pyserini_llm_sparse.onnx.export.exporter import export_model
from pyserini_llm_sparse.training.config.fields import AdaptConfig, CalibrateConfig, RetrieveConfig
from pyserini_llm_sparse.training.preparation.calibrating import calibrate
from pyserini_llm_sparse.training.run import adapt, retrieve
from tests.checkpoints import TEXTS, causal_model, checkpoint, copied, sentences, transformers_tokenizer

TRAINER = {"use_cpu": True, "max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "report_to": []}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "contents": t}) + "\n" for n, t in enumerate(sentences())))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    some = list(dict.fromkeys(sentences()))[:40]
    path.write_text("".join(json.dumps({"query": text[4:20], "positive": text}) + "\n" for text in some))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as language models are: its logits are positive, so every text has nearly every term."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    tokenizer = transformers_tokenizer()
    plain = causal_model("llama", len(tokenizer), hidden_size=64, tie_word_embeddings=True)
    torch.nn.init.normal_(plain.get_input_embeddings().weight, mean=0.3, std=0.3)
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("calibrated") / "model"
    result = CliRunner().invoke(
        app,
        [
            "train", "calibrate", "--model", str(model), "--texts", str(texts), "--output", str(output),
            "--kth-logit", "20",
        ],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "a document has" in result.output
    return output


def shift_of(folder: Path) -> Any:
    return load_file(folder / HEAD_SHIFT_FILE)["shift"]


def test_the_weights_stay_and_the_vectors_become_sparse(model: Path, calibrated: Path) -> None:
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, calibrated))
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)
    dense = SparseEncoder.load(f"csplade:{model},attention=causal").encode_documents(TEXTS)
    sparse = SparseEncoder.load(str(calibrated)).encode_documents(TEXTS)
    assert sparse.active_terms().mean() < dense.active_terms().mean() / 2
    assert sparse.active_terms().min() > 0


def test_it_is_the_same_language_model(model: Path, calibrated: Path) -> None:
    plain = SparseEncoder.load(f"csplade:{model},attention=causal").engine.backbone  # type: ignore[attr-defined]
    shifted = SparseEncoder.load(str(calibrated)).engine.backbone  # type: ignore[attr-defined]
    ids = torch.tensor([[3, 60, 300, 41]])
    before, after = (one.model(input_ids=ids).logits.double().log_softmax(-1) for one in (plain, shifted))
    assert not torch.allclose(plain.model(input_ids=ids).logits, shifted.model(input_ids=ids).logits, atol=1e-2)
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


def test_the_vector_predicts_the_kth_logit(model: Path, calibrated: Path) -> None:
    backbone = SparseEncoder.load(f"csplade:{model},attention=causal").engine.backbone  # type: ignore[attr-defined]
    ids = torch.tensor([transformers_tokenizer()(text)["input_ids"][:8] for text in sentences()[:50]])
    states = backbone.hidden(ids, torch.ones_like(ids)).flatten(0, 1)
    wanted = (states @ backbone.head_weight.T).topk(20, dim=1).values[:, -1]
    error = states @ torch.from_numpy(shift_of(calibrated)) - wanted
    assert error.square().mean() < 0.5 * wanted.var(), "no better than one number for all positions"


def test_an_export_has_it_in_its_graph(calibrated: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export_model(str(calibrated), tmp_path / "export")
    wanted = SparseEncoder.load(str(calibrated), dtype="float32").encode_documents(TEXTS).matrix.toarray()
    found = SparseEncoder.load(str(tmp_path / "export")).encode_documents(TEXTS).matrix.toarray()
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert not (tmp_path / "export" / HEAD_SHIFT_FILE).exists()


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_training_goes_on_from_it_and_saves_it(calibrated: Path, pairs: Path, tmp_path: Path, save: str) -> None:
    lora = {"lora_rank": 4} if save == "adapter" else {}
    config = RetrieveConfig(
        model=str(calibrated), train=(str(pairs),), output=tmp_path / "result", attention="causal", save=save,
        trainer=TRAINER, **lora,
    )  # fmt: skip
    retrieve(config)
    encoder = SparseEncoder.load(str(tmp_path / "result"))
    assert encoder.spec.calibrated_head
    assert not np.array_equal(shift_of(tmp_path / "result"), shift_of(calibrated))
    assert np.allclose(shift_of(tmp_path / "result"), shift_of(calibrated), atol=0.05)
    assert 0 < encoder.encode_documents(TEXTS).active_terms().mean() < 400


def test_a_model_without_a_spec_takes_it_from_another_directory(
    model: Path, calibrated: Path, pairs: Path, texts: Path, tmp_path: Path
) -> None:
    adapted = AdaptConfig(
        model=str(model), texts=(str(texts),), output=tmp_path / "adapted", attention="causal", sequence_length=32,
        head_shift=calibrated, trainer=TRAINER,
    )  # fmt: skip
    adapt(adapted)
    assert not np.array_equal(shift_of(tmp_path / "adapted"), shift_of(calibrated))
    config = RetrieveConfig(
        model=str(tmp_path / "adapted"), train=(str(pairs),), output=tmp_path / "result", attention="causal",
        trainer=TRAINER,
    )  # fmt: skip
    retrieve(config)
    assert SparseEncoder.load(str(tmp_path / "result")).spec.calibrated_head


def test_what_is_missing_or_another_model_s_is_refused(calibrated: Path, tmp_path: Path) -> None:
    plain = RetrieveConfig(model=str(checkpoint("without_spec")), train=("t",), output=tmp_path, calibrated_head=True)
    from pyserini_llm_sparse.training.retriever.building import build_model

    with pytest.raises(UsageError, match="train calibrate"):
        build_model(plain)
    other = copied("llama_causal", tmp_path / "other")
    (other / HEAD_SHIFT_FILE).write_bytes((calibrated / HEAD_SHIFT_FILE).read_bytes())
    with pytest.raises(DataError, match="another model"):
        SparseEncoder.load(f"csplade:{checkpoint_without_fingerprint(other)},calibrated_head=true").encode_queries(
            ["a"]
        )
    (other / HEAD_SHIFT_FILE).unlink()
    with pytest.raises(ResourceError, match="head_shift"):
        SparseEncoder.load(f"csplade:{other},calibrated_head=true")


def checkpoint_without_fingerprint(folder: Path) -> Path:
    spec = json.loads((folder / "encoding_spec.json").read_text())
    (folder / "encoding_spec.json").write_text(json.dumps({**spec, "model_fingerprint": ""}))
    return folder


def test_nothing_is_replaced_unasked(calibrated: Path, model: Path, texts: Path) -> None:
    config = CalibrateConfig(model=str(model), texts=(str(texts),), output=calibrated)
    with pytest.raises(UsageError, match="--overwrite"):
        calibrate(config)
    assert (calibrated / HEAD_SHIFT_FILE).is_file()

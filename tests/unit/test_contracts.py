"""Contracts that a model's directory states in another library's files, or leaves open."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.names import SPEC_FILE, is_ours, parse_encoder_name
from tests.checkpoints import change_json, checkpoint, copied
from tests.masked_checkpoints import POSITIONS

TEXTS = ["The wind lifts the wing of a small plane at night without rest", "cells", "Köln liegt am Rhein"]


def test_lengths_and_top_k_of_sentence_transformers_are_kept(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers reads its own layout")
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    change_json(folder / "sentence_bert_config.json", max_seq_length=6)
    change_json(folder / "config_sentence_transformers.json", max_active_dims=9)
    expected = library.SparseEncoder(str(folder), device="cpu").encode(TEXTS, convert_to_sparse_tensor=False)
    encoder = SparseEncoder.load(str(folder), device="cpu")
    spec = encoder.spec
    assert (spec.query_max_length, spec.document_max_length, spec.query_top_k, spec.document_top_k) == (6, 6, 9, 9)
    found = encoder.encode_documents(TEXTS).matrix.toarray()
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("said", "length"), [(7, 7), (10**30, 256)], ids=["a length", "transformers' none"])
def test_a_length_may_stand_with_the_tokenizer(said: int, length: int, tmp_path: Path) -> None:
    """Version 6 of sentence-transformers writes it there."""
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    change_json(folder / "sentence_bert_config.json", max_seq_length=None)
    change_json(folder / "tokenizer_config.json", model_max_length=said)
    assert SparseEncoder.load(str(folder), device="cpu").spec.document_max_length == length


def test_a_length_of_sentence_transformers_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    change_json(folder / "sentence_bert_config.json", max_seq_length="long")
    with pytest.raises(DataError, match=r"sentence_bert_config\.json: max_seq_length: not a whole number"):
        SparseEncoder.load(str(folder), device="cpu")


def test_a_named_field_wins_over_sentence_transformers(tmp_path: Path) -> None:
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    change_json(folder / "sentence_bert_config.json", max_seq_length=6)
    encoder = SparseEncoder.load(str(folder), device="cpu", document_max_length=POSITIONS)
    assert (encoder.spec.query_max_length, encoder.spec.document_max_length) == (6, POSITIONS)


@pytest.mark.parametrize(("fields", "said"), [({}, True), ({"logit_scale": 0.5}, False)], ids=["open", "named"])
def test_a_scale_that_is_assumed_is_said(
    fields: dict[str, float], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        SparseEncoder.load(str(checkpoint("without_spec")), attention="bidirectional", device="cpu", **fields)
    assert ("logit_scale 1 is assumed" in caplog.text) is said


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_weights_that_are_not_finite_are_named(name: str, attention: str, tmp_path: Path) -> None:
    folder = copied(f"llama_{attention}", tmp_path / "model")
    change_json(folder / SPEC_FILE, model_fingerprint="")
    weights = load_file(folder / "model.safetensors")
    weights[name][:] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"not finite: 1 of its tensors hold NaN or infinity \({name}\)"):
        SparseEncoder.load(str(folder), device="cpu").encode_documents(["a wing"])


def test_a_path_that_exists_is_no_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(checkpoint("llama_causal"), "runs,lr=1e-5")  # noqa: PTH211
    for name in ("runs,lr=1e-5", "csplade:runs,lr=1e-5"):
        assert is_ours(name)
        found = parse_encoder_name(f"{name},query_max_length=8")
        assert (found.model, found.overrides) == ("runs,lr=1e-5", {"query_max_length": "8"})
    assert parse_encoder_name("other,lr=1e-5").model == "other"
    assert parse_encoder_name("csplade").model != "csplade"
    assert not caplog.text
    Path("csplade").mkdir()
    parse_encoder_name("csplade")
    assert "csplade:./csplade" in caplog.text

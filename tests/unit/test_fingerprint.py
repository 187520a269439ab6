"""The fingerprint: what of a model it covers, what it lets be, and those that version 0.1 made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import SpecMismatchError
from pyserini_llm_sparse.indexing.lucene.index_spec import require_index_spec
from pyserini_llm_sparse.indexing.vectors.identity import job_identity
from pyserini_llm_sparse.modelling import fingerprint as fingerprints
from pyserini_llm_sparse.modelling.model_settings import model_settings
from pyserini_llm_sparse.modelling.names import EMBEDDED, SPEC_FILE
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from tests.checkpoints import change_json, checkpoint, copied

NAME = "llama_causal"
EMBEDDED_IN_0_1 = "sha256:cb352ba69effc347a4f31daeb25ce42a7424c642e1906e9509be27a5272abfc7"
OTHER_VECTORS: dict[str, dict[str, Any]] = {
    "norm": {"rms_norm_eps": 0.5},
    "activation": {"hidden_act": "relu"},
    "rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    "old rope": {"rope_parameters": None, "rope_theta": 77.0},
    "scaled rope": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "heads": {"num_attention_heads": 8},
    "layers": {"num_hidden_layers": 1},
    "window": {"sliding_window": 8},
    "tied": {"tie_word_embeddings": True},
}
SAME_VECTORS: dict[str, dict[str, Any]] = {
    "versions": {"transformers_version": "4.57.0", "torch_dtype": "bfloat16", "use_cache": True},
    "defaults": {"mlp_bias": False, "attention_dropout": 0.1, "initializer_range": 0.5, "_name_or_path": "/elsewhere"},
    "old rope": {"rope_parameters": None, "rope_theta": 10000.0},
}


def fingerprint_of(folder: Path) -> str:
    change_json(folder / SPEC_FILE, model_fingerprint="")
    return SparseEncoder.load(str(folder), device="cpu").spec.model_fingerprint


@pytest.mark.parametrize("name", OTHER_VECTORS)
def test_a_configuration_that_gives_other_vectors_is_another_model(name: str, tmp_path: Path) -> None:
    folder = copied(NAME, tmp_path / "model")
    change_json(folder / "config.json", **OTHER_VECTORS[name])
    with pytest.raises(SpecMismatchError, match="weights, configuration or tokenizer are not those"):
        SparseEncoder.load(str(folder), device="cpu")
    assert fingerprint_of(folder) != fingerprint_of(copied(NAME, tmp_path / "same"))


@pytest.mark.parametrize("name", SAME_VECTORS)
def test_a_configuration_that_says_the_same_is_the_same_model(name: str, tmp_path: Path) -> None:
    folder = copied(NAME, tmp_path / "model")
    change_json(folder / "config.json", **SAME_VECTORS[name])
    expected = EncodingSpec.load(checkpoint(NAME)).model_fingerprint
    assert SparseEncoder.load(str(folder), device="cpu").spec.model_fingerprint == expected


def test_an_adapter_of_another_strength_is_another_model(tmp_path: Path) -> None:
    folder = copied("adapter", tmp_path / "model")
    first = fingerprint_of(folder)
    change_json(folder / "adapter_config.json", lora_alpha=64)
    assert fingerprint_of(folder) != first


def test_one_number_in_the_middle_of_a_tensor_counts(tmp_path: Path) -> None:
    folder = copied(NAME, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"].flatten()
    table[len(table) // 3] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpecMismatchError):
        SparseEncoder.load(str(folder), device="cpu")


def test_of_a_large_model_places_all_over_its_tensors_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "WHOLE_BYTES", 0)
    monkeypatch.setattr(fingerprints, "SAMPLED_BYTES", 4)  # the first, the middle and the last 4 bytes alone are v0.1's
    folder = copied(NAME, tmp_path / "model")
    first = fingerprint_of(folder)
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"].flatten()
    table[len(table) * 11 // 64] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint_of(folder) != first


def test_rotary_positions_say_the_same_in_both_of_their_forms() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 16}
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", **scaling}}
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn", **scaling}}
    assert model_settings(old) == model_settings(new) != model_settings({"rope_theta": 5e5})


def test_what_version_0_1_made_with_the_embedded_model_stays_usable(tmp_path: Path) -> None:
    encoder = SparseEncoder.load(device="cpu")
    old = encoder.spec.replace(model_fingerprint=EMBEDDED_IN_0_1)
    old.save(tmp_path)
    assert require_index_spec(tmp_path, encoder.spec, "csplade") == old
    job = job_identity(encoder, "irds:vaswani", None, False, 8)
    job.require_same(job.model_copy(update={"spec": old}), tmp_path)


def test_an_index_of_a_copy_with_another_configuration_is_not_searched_with_the_embedded_model(tmp_path: Path) -> None:
    encoder = SparseEncoder.load(device="cpu")
    name, _, rest = encoder.spec.model_fingerprint.partition("+")
    encoder.spec.replace(model_fingerprint=f"{name}+{rest[::-1]}").save(tmp_path)
    with pytest.raises(SpecMismatchError, match="model_fingerprint"):
        require_index_spec(tmp_path, encoder.spec, "csplade")


def test_a_checkpoint_of_version_0_1_loads_and_is_named_anew(tmp_path: Path) -> None:
    folder = copied(NAME, tmp_path / "model")
    now = EncodingSpec.load(folder).model_fingerprint
    change_json(folder / SPEC_FILE, model_fingerprint=now.partition("+")[0])
    assert SparseEncoder.load(str(folder), device="cpu").spec.model_fingerprint == now
    assert "+" in EncodingSpec.load(EMBEDDED).model_fingerprint

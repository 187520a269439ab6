"""Adapters saved with embeddings, over grown vocabularies, or with other parts: the logits that peft gives."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.backbone.loading import load_backbone
from tests.checkpoints import causal_model, transformers_tokenizer

GROWN_BY = 8
IDS = torch.tensor([[5, 300, 17, 40, 8]])


def base(folder: Path, tied: bool = False) -> Path:
    tokenizer = transformers_tokenizer()
    causal_model("llama", len(tokenizer), tie_word_embeddings=tied).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter(folder: Path, over: Path, grown: bool = False, embeddings: bool = True, **settings: Any) -> Path:
    """Save an adapter all of whose parts were changed, as training does."""
    model = AutoModelForCausalLM.from_pretrained(over)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        if grown:
            model.resize_token_embeddings(model.config.vocab_size + GROWN_BY, mean_resizing=False)
        options = {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False, **settings}
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
        for name, parameter in adapted.named_parameters():
            if embeddings and any(part in name for part in ("embed_tokens", "lm_head")):
                parameter.data += torch.randn_like(parameter) * 0.1
        adapted.save_pretrained(str(folder), save_embedding_layers=embeddings)
    return folder


def logits_of_peft(folder: Path, over: Path, grown: bool) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(over)
    if grown:
        model.resize_token_embeddings(model.config.vocab_size + GROWN_BY, mean_resizing=False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logits: torch.Tensor = PeftModel.from_pretrained(model, str(folder))(input_ids=IDS).logits
    return logits


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"embeddings": False},
    "embeddings": {},
    "grown": {"grown": True},
    "embedding is a target": {"target_modules": ["q_proj", "embed_tokens"]},
    "output layer is a target": {"target_modules": ["q_proj", "lm_head"]},
    "embedding is a target, grown": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "grown": True},
    "whole layers": {"modules_to_save": ["embed_tokens", "lm_head"], "embeddings": False},
    "whole layers, grown": {"modules_to_save": ["embed_tokens", "lm_head"], "embeddings": False, "grown": True},
    "some tokens": {"trainable_token_indices": [5, 17], "embeddings": False},
    "rank-stabilised": {"use_rslora": True, "embeddings": False},
    "magnitudes": {"use_dora": True, "embeddings": False},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_logits_are_those_of_peft(name: str, tied: bool, tmp_path: Path) -> None:
    if tied and name.startswith("whole layers"):
        pytest.skip("peft trains two copies of what is one layer")
    over = base(tmp_path / "base", tied)
    folder = adapter(tmp_path / "adapter", over, **VARIANTS[name])
    expected = logits_of_peft(folder, over, VARIANTS[name].get("grown", False))
    backbone = load_backbone(folder, attention="causal", device="cpu", base=over)
    with torch.no_grad():
        found = backbone.hidden(IDS, torch.ones_like(IDS)) @ backbone.head_weight.T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_encoder_has_the_vocabulary_of_a_grown_adapter(tmp_path: Path) -> None:
    over = base(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", over, grown=True)
    encoder = SparseEncoder.load(f"csplade:{folder}", attention="causal", device="cpu", base=str(over))
    assert encoder.checkpoint.vocabulary_size == len(transformers_tokenizer()) + GROWN_BY
    assert encoder.document_impacts(["a wing"])[0]


def test_an_adapter_that_lacks_half_of_its_new_rows_is_refused(tmp_path: Path) -> None:
    over = base(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", over, grown=True)
    path = folder / "adapter_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if "lm_head" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"over a base of .*not saved; save it again"):
        load_backbone(folder, attention="causal", device="cpu", base=over)


def test_an_adapter_with_two_layers_over_a_base_that_shares_one_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base(tmp_path / "untied"))
    with pytest.raises(DataError, match="its base shares embedding and output layer, the adapter has two"):
        load_backbone(folder, attention="causal", device="cpu", base=base(tmp_path / "tied", tied=True))

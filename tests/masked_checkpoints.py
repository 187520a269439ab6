"""Small checkpoints of masked language models, as SPLADE is published, registered with those of `checkpoints`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.checkpoints import _register, _registered, bert_tokenizer

POSITIONS = 300  # most tokens of a text, which test texts can reach
PADDING = 0
MASKED_FAMILIES = ("bert_splade", "distilbert_splade", "roberta_splade", "modernbert_splade")
_SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
    "initializer_range": 0.3, "pad_token_id": PADDING,
}  # fmt: skip
_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert_splade": ("Bert", {**_SMALL, "max_position_embeddings": POSITIONS}),
    "distilbert_splade": (
        "DistilBert",
        {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48, "initializer_range": 0.3,
         "max_position_embeddings": POSITIONS, "pad_token_id": PADDING},
    ),
    # It counts positions from the one after padding's, so some of its table is never used.
    "roberta_splade": ("Roberta", {**_SMALL, "max_position_embeddings": POSITIONS + PADDING + 1}),
    # Every other layer sees four tokens to each side.
    "modernbert_splade": (
        "ModernBert",
        {**_SMALL, "num_hidden_layers": 2, "initializer_range": 0.1, "max_position_embeddings": POSITIONS,
         "local_attention": 8, "global_attn_every_n_layers": 2, "bos_token_id": 2, "eos_token_id": 3,
         "cls_token_id": 2, "sep_token_id": 3},
    ),
}  # fmt: skip


def masked_model(name: str, **changes: Any) -> PreTrainedModel:
    """Make one of `MASKED_FAMILIES` with random weights; about half of the terms are active in a text."""
    family, settings = _SETTINGS[name]
    config = getattr(transformers, f"{family}Config")(vocab_size=len(bert_tokenizer()), **{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = getattr(transformers, f"{family}ForMaskedLM")(config)
        for path, parameter in model.named_parameters():
            if path.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2)  # they start at 0, and would test nothing
    bias = model.get_output_embeddings().bias
    torch.nn.init.uniform_(bias, -8, 4, generator=torch.Generator().manual_seed(0))
    return model.eval()


def _published(folder: Path, name: str) -> None:
    model = masked_model(name)
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # which is all that Pyserini 2's own encoders read
    bert_tokenizer().save_pretrained(folder)


for _name in MASKED_FAMILIES:
    _register(_name, lambda folder, name=_name: _published(folder, name))  # type: ignore[misc]


@_registered
def splade_sentence_transformers(folder: Path) -> None:
    """A SPLADE in the layout of sentence-transformers, written by that library."""
    from sentence_transformers import SparseEncoder

    plain = folder.parent / f"{folder.name}-plain"
    plain.mkdir()
    _published(plain, "bert_splade")
    SparseEncoder(str(plain), device="cpu").save(str(folder))


def change_modules(folder: Path, *types: str) -> None:
    """Name the modules of a sentence-transformers directory as another version of the library does."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for module, kind in zip(modules, types, strict=True):
        module["type"] = kind
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")

"""Small checkpoints of architectures that have no fused graph of our own, registered with those of `checkpoints`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from pyserini_llm_sparse.modelling.checkpoint import save_checkpoint
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from tests.checkpoints import SMALL, _registered, native, transformers_tokenizer, vocabulary_size

WINDOW = 8  # of Gemma's first layer: most texts are longer


def _made(name: str, **settings: Any) -> PreTrainedModel:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary_size(), bos_token_id=0, eos_token_id=1, pad_token_id=2, **settings
    )
    classes = {"GPT2": "GPT2LMHeadModel"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = getattr(transformers, classes.get(name, f"{name}ForCausalLM"))(config)
        for path, parameter in model.named_parameters():
            if path.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)  # most start at 0, and would test nothing
    # As in `checkpoints.causal_model`, one direction speaks against all terms.
    model.get_output_embeddings().weight.data[:, 0] = 2.0
    return model.eval()


def _saved(folder: Path, model: PreTrainedModel, **spec_fields: Any) -> None:
    spec = EncodingSpec(query_max_length=16, document_max_length=32, **spec_fields)
    save_checkpoint(folder, model, transformers_tokenizer(), spec)


@_registered
def gemma2(folder: Path) -> None:
    """Tied; its embedding is scaled, its attention capped, and one of its layers attends to a window."""
    model = _made(
        "Gemma2", **SMALL, initializer_range=0.3, head_dim=12, sliding_window=WINDOW, final_logit_softcapping=None
    )
    for layer in model.base_model.layers:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            norm.weight.data[0] = -1  # Gemma's norms multiply by 1 more than their weight
    model.base_model.norm.weight.data[0] = -1.25
    _saved(folder, model, attention="bidirectional")


@_registered
def phi3(folder: Path) -> None:
    """Queries, keys and values are one layer, gate and up another."""
    model = _made("Phi3", **{**SMALL, "num_hidden_layers": 1}, initializer_range=0.3, tie_word_embeddings=False)
    model.get_input_embeddings().weight.data[:, 0] = 2.0
    for layer in model.base_model.layers:
        layer.self_attn.o_proj.weight.data[0] = 0
        layer.mlp.down_proj.weight.data[0] = 0
    model.base_model.norm.weight.data[0] = -6
    _saved(folder, model, attention="causal")


@_registered
def gpt2(folder: Path) -> None:
    """Learned positions, layer norms, and weights that are stored the other way round."""
    model = _made("GPT2", n_embd=48, n_layer=1, n_head=4, n_positions=512, initializer_range=0.3)
    model.base_model.ln_f.weight.data[0] = 0
    model.base_model.ln_f.bias.data[0] = -1.5
    _saved(folder, model, attention="echo")


@_registered
def phi(folder: Path) -> None:
    """Its output layer has a bias."""
    model = _made("Phi", **{**SMALL, "num_hidden_layers": 1}, initializer_range=0.3)
    model.base_model.final_layernorm.weight.data[0] = 0
    model.base_model.final_layernorm.bias.data[0] = -3
    torch.nn.init.uniform_(model.get_output_embeddings().bias, -3, 3, generator=torch.Generator().manual_seed(0))
    _saved(folder, model, attention="causal")


@_registered
def small_heads(folder: Path) -> None:
    """A Llama with heads of 8 numbers and another activation."""
    native(folder, settings={"hidden_size": 32, "hidden_act": "gelu", "num_hidden_layers": 1}, attention="causal")


@_registered
def dynamic_rope(folder: Path) -> None:
    """Positions that depend on the length of the longest text."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    native(folder, settings={"hidden_size": 64, "num_hidden_layers": 1, "rope_parameters": rope}, attention="causal")

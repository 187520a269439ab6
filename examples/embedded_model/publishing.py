"""Saves a trained model as a checkpoint of the package: float16 weights, tokenizer, encoding spec, query table."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from encoding import hidden_states, padded
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pyserini_llm_sparse.modelling.checkpoint import save_checkpoint
from pyserini_llm_sparse.modelling.spec import EncodingSpec


def encoding_spec(stop_words: np.ndarray, document_length: int, document_terms: int | None) -> EncodingSpec:
    """Return the spec of the embedded model; stop-words and special tokens never become terms."""
    return EncodingSpec(
        attention="bidirectional",
        query_encoder="inference-free",
        query_term_counts=True,
        add_bos=True,
        pooled_span="all",
        query_max_length=256,
        document_max_length=document_length,
        document_top_k=document_terms,
        excluded_token_ids=tuple(np.flatnonzero(stop_words).tolist()),
        impact_factor=100.0,
    )


@torch.no_grad()
def even_out(model: LlamaForCausalLM, texts: Sequence[np.ndarray]) -> None:
    """Take large dimensions of what leaves each norm down, and the columns that read them up: the same function.

    The own dimensions are far larger than the others, which would leave these no room in 8-bit products. As in
    SmoothQuant (Xiao et al., 2023), activations and weights share the burden by halves.

    Args:
        model: The model, changed in place.
        texts: Some texts as ids, by which activations are measured.
    """
    readers: dict[nn.Module, list[nn.Linear]] = {model.model.norm: [model.lm_head]}
    for layer in model.model.layers:
        attention = layer.self_attn
        readers[layer.input_layernorm] = [attention.q_proj, attention.k_proj, attention.v_proj]
        readers[layer.post_attention_layernorm] = [layer.mlp.gate_proj, layer.mlp.up_proj]
    largest: dict[nn.Module, Tensor] = {}

    def remember(norm: nn.Module, _: object, output: Tensor) -> None:
        largest[norm] = output[mask].abs().amax(0)

    handles = [norm.register_forward_hook(remember) for norm in readers]
    ids, mask = padded(texts, 1 + max(len(text) for text in texts), model.config)
    hidden_states(model, ids, mask)
    for handle in handles:
        handle.remove()
    for norm, linears in readers.items():
        columns = torch.stack([linear.weight.abs().amax(0) for linear in linears]).amax(0)
        factor = (largest[norm].clamp(min=1e-3) / columns.clamp(min=1e-3)).sqrt()
        factor /= factor.log().mean().exp()
        norm.weight /= factor
        for linear in linears:
            linear.weight *= factor


def publish(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    spec: EncodingSpec,
    table: Tensor,
    texts: Sequence[np.ndarray],
) -> EncodingSpec:
    """Write the checkpoint; the model that is passed stays as it is. Returns the spec with its fingerprint."""
    saved = copy.deepcopy(model)
    even_out(saved, texts)
    return save_checkpoint(folder, saved.half(), tokenizer, spec, table.detach().float())

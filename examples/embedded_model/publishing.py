"""Saves a trained model as a checkpoint of the package: float16 weights, tokenizer, encoding spec, query table."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pyserini_llm_sparse.checkpoint import save_checkpoint
from pyserini_llm_sparse.spec import EncodingSpec


def encoding_spec(stop_words: np.ndarray, document_length: int) -> EncodingSpec:
    """Return the spec of the embedded model; stop-words and special tokens never become terms."""
    return EncodingSpec(
        attention="bidirectional",
        query_encoder="inference-free",
        query_term_counts=True,
        add_bos=True,
        pooled_span="all",
        query_max_length=256,
        document_max_length=document_length,
        excluded_token_ids=tuple(np.flatnonzero(stop_words).tolist()),
        impact_factor=100.0,
    )


def publish(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, spec: EncodingSpec, table: Tensor
) -> EncodingSpec:
    """Write the checkpoint; the model that is passed stays in float32. Returns the spec with its fingerprint."""
    half = copy.deepcopy(model).half()
    return save_checkpoint(folder, half, tokenizer, spec, table.detach().float())

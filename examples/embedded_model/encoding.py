"""The forward pass of training and evaluation: token ids to term weights, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PretrainedConfig

from pyserini_llm_sparse.head import max_logits


def padded(texts: Sequence[np.ndarray], longest: int, config: PretrainedConfig) -> tuple[Tensor, Tensor]:
    """Return ids ``[texts, length]`` with BOS in front and padding behind, and the mask of what is not padding."""
    length = 1 + max((min(len(text), longest - 1) for text in texts), default=0)
    ids = np.full((len(texts), length), config.pad_token_id, dtype=np.int64)
    ids[:, 0] = config.bos_token_id
    mask = np.zeros((len(texts), length), dtype=bool)
    mask[:, 0] = True
    for row, text in enumerate(texts):
        part = text[: longest - 1]
        ids[row, 1 : 1 + len(part)] = part
        mask[row, 1 : 1 + len(part)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def hidden_states(model: LlamaForCausalLM, ids: Tensor, mask: Tensor, causal: bool = False) -> Tensor:
    """Return the last hidden states under bidirectional (or causal) attention over what is not padding."""
    attended = mask[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
    if causal:
        attended = attended & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    states: Tensor = model.model(input_ids=ids, attention_mask=attended, use_cache=False).last_hidden_state
    return states


def document_logits(
    model: LlamaForCausalLM, texts: Sequence[np.ndarray], longest: int, texts_per_part: int = 16
) -> Tensor:
    """Return the largest logit of every term ``[texts, vocabulary]``, BOS attended to but not pooled.

    Texts of like length go through the model together, so that little is computed for padding.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows = []
    for start in range(0, len(order), texts_per_part):
        part = [texts[index] for index in order[start : start + texts_per_part]]
        ids, mask = padded(part, longest, model.config)
        pooled = mask.clone()
        pooled[:, 0] = False
        rows.append(max_logits(hidden_states(model, ids, mask), model.lm_head.weight, pooled))
    return torch.cat(rows)[torch.argsort(torch.tensor(order))]


def in_batches(texts: Sequence[np.ndarray], size: int) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield (places, texts) in order of length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield places, [texts[place] for place in places]

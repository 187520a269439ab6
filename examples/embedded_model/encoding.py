"""The forward pass of training and evaluation: token ids to term weights, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PretrainedConfig

from pyserini_llm_sparse.modelling.backbone.head import max_logits
from pyserini_llm_sparse.system import multiplies_bfloat16

IN_BFLOAT16 = multiplies_bfloat16()


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


def hidden_states(model: LlamaForCausalLM, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the last hidden states under bidirectional attention over what is not padding."""
    attended = mask[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
    states: Tensor = model.model(input_ids=ids, attention_mask=attended, use_cache=False).last_hidden_state
    return states


def document_logits(
    model: LlamaForCausalLM, texts: Sequence[np.ndarray], longest: int, texts_per_part: int = 16
) -> Tensor:
    """Return the largest logit of every term over all positions, BOS included: ``[texts, vocabulary]``.

    Texts of like length go through the model together, so that little is computed for padding.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows = []
    for start in range(0, len(order), texts_per_part):
        ids, mask = padded([texts[index] for index in order[start : start + texts_per_part]], longest, model.config)
        rows.append(max_logits(hidden_states(model, ids, mask), model.lm_head.weight, mask))
    return torch.cat(rows)[torch.argsort(torch.tensor(order))]


def training_logits(
    model: LlamaForCausalLM, texts: Sequence[np.ndarray], longest: int, sampled: Tensor, texts_per_part: int = 16
) -> tuple[Tensor, Tensor]:
    """Return what training needs of the logits at a tenth of the price of all of them.

    Expansions come from BOS, which sees the whole text, and own terms from their own positions. So the head is
    multiplied with BOS alone, at each position with the row of its own term, and, to see what else is active there,
    with a sample of terms.

    Returns:
        logits of every term, at BOS or at the term's own positions, ``[texts, vocabulary]``; the largest logit of each
        sampled term over the positions of the text, ``[texts, sampled]``.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    head = model.lm_head.weight
    logits, strays = [], []
    for start in range(0, len(order), texts_per_part):
        ids, mask = padded([texts[index] for index in order[start : start + texts_per_part]], longest, model.config)
        with torch.autocast("cpu", torch.bfloat16, enabled=IN_BFLOAT16):
            states = hidden_states(model, ids, mask)
            stray = states[:, 1:] @ head[sampled].T
        states = states.float()
        own = (states[:, 1:] * head[ids[:, 1:]]).sum(2).masked_fill(~mask[:, 1:], -torch.inf)
        logits.append((states[:, 0] @ head.T).scatter_reduce(1, ids[:, 1:], own, "amax"))
        strays.append(stray.float().masked_fill(~mask[:, 1:, None], -torch.inf).amax(1))
    back = torch.argsort(torch.tensor(order))
    return torch.cat(logits)[back], torch.cat(strays)[back]


def in_batches(texts: Sequence[np.ndarray], size: int) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield (places, texts) in order of length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield places, [texts[place] for place in places]

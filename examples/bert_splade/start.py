"""A masked language model from a sentence encoder, which has lost its masked-LM head: the head is solved for again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer

BATCH = 32
LENGTH = 96
RIDGE = 1e-2  # of the mean of the states' squares
ACTIVE_TERMS = 150  # of a text, before any training for retrieval
SILENT = 0.99  # of the texts have less of a term than it has where it stands
LINEAR_AT = 4.0  # GELU passes on what is this far above 0


@torch.no_grad()
def solve_head(encoder: Path, texts: Sequence[str], output: Path) -> float:
    """Give an encoder a masked-LM head that says which token stands at each position, and write both.

    The head's transform is the linear map from the last states to the input embeddings of their tokens, by least
    squares; its activation is passed where it is linear. The output layer is tied to the input embedding, as in BERT.

    Args:
        encoder: Folder of a BERT encoder.
        texts: Texts to solve for, some thousands.
        output: Where the model goes.

    Returns:
        The share of the tokens whose own logit is the largest at their position.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(encoder))
    model = AutoModelForMaskedLM.from_pretrained(str(encoder)).eval()
    embedding = model.get_input_embeddings().weight
    directions = functional.normalize(embedding - embedding.mean(0), dim=-1)
    width = model.config.hidden_size
    products = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    targets = torch.zeros(width + 1, width, dtype=torch.float64)
    for batch in _batches(tokenizer, texts):
        states = _with_one(_states(model, batch)).double()
        products += states.T @ states
        targets += states.T @ directions[batch["input_ids"][batch["attention_mask"].bool()]].double()
    ridge = RIDGE * products.diagonal()[:-1].mean() * torch.eye(width + 1, dtype=torch.float64)
    ridge[-1, -1] = 0
    solution = torch.linalg.solve(products + ridge, targets).float()
    transform = model.cls.predictions.transform
    scale = math.sqrt(width)  # entries of about 1
    transform.dense.weight.copy_(scale * solution[:-1].T)
    transform.dense.bias.copy_(scale * solution[-1] + LINEAR_AT)
    model.cls.predictions.bias.zero_()
    batch = next(_batches(tokenizer, texts))
    kept = batch["attention_mask"].bool()
    found = model(**batch).logits.argmax(-1) == batch["input_ids"]
    model.save_pretrained(str(output))
    tokenizer.save_pretrained(str(output))
    return float(found[kept].float().mean())


@torch.no_grad()
def calibrate(folder: Path, texts: Sequence[str], documents: Sequence[str]) -> float:
    """Let a text's own terms weigh about as BM25 weighs them, and a text have `ACTIVE_TERMS` terms.

    The head only knows which term is ahead of which: how large logits are, and from where on they count, is open. So
    they are multiplied by one number, and each term's bias moved until its own logit, where it stands in a text, is
    ``expm1(sqrt(.3 IDF))`` on average: its weight is then ``sqrt(.3 IDF)`` on both sides, and a match counts .3 IDF.

    Args:
        folder: The model, which is written anew.
        texts: Texts to look at, some hundreds.
        documents: Texts that document frequencies are counted in.

    Returns:
        The number that logits were multiplied by.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForMaskedLM.from_pretrained(str(folder)).eval()
    head, words = model.cls.predictions, model.config.vocab_size
    frequency = torch.ones(words)
    for ids in tokenizer(list(documents), truncation=True, max_length=LENGTH)["input_ids"]:
        frequency[list(set(ids))] += 1
    wanted = torch.expm1((0.3 * torch.log(len(documents) / frequency).clamp(min=0)).sqrt())
    wanted[tokenizer.all_special_ids] = 0
    sums, counts, largest = torch.zeros(words), torch.zeros(words), []
    for batch in _batches(tokenizer, texts):
        kept = batch["attention_mask"].bool()
        logits = model(**batch).logits
        own = logits.gather(2, batch["input_ids"][..., None])[..., 0][kept]
        sums.index_add_(0, batch["input_ids"][kept], own)
        counts.index_add_(0, batch["input_ids"][kept], torch.ones_like(own))
        largest.append(logits.masked_fill(~kept[..., None], -torch.inf).amax(1))
    mean = torch.where(counts > 0, sums / counts.clamp(min=1), sums.sum() / counts.sum())
    logits = torch.cat(largest)
    # Terms that the head does not find where they stand would be found everywhere else.
    reference = torch.maximum(mean, logits.kthvalue(int(SILENT * len(logits)), dim=0).values)
    behind = logits - reference
    low, high = 1e-3, 10.0
    for _ in range(30):
        scale = math.sqrt(low * high)
        too_many = float((scale * behind + wanted > 0).sum(1).float().mean()) > ACTIVE_TERMS
        low, high = (scale, high) if too_many else (low, scale)
    head.transform.LayerNorm.weight *= scale
    head.transform.LayerNorm.bias *= scale
    head.bias.copy_(scale * head.bias + wanted - scale * reference)
    model.save_pretrained(str(folder))
    return scale


def _batches(tokenizer: Any, texts: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    for first in range(0, len(texts), BATCH):
        yield tokenizer(
            list(texts[first : first + BATCH]), truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
        )


def _states(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the last states ``[tokens, hidden]`` of a batch, without padding."""
    states: Tensor = model.base_model(**batch).last_hidden_state
    return states[batch["attention_mask"].bool()]


def _with_one(states: Tensor) -> Tensor:
    return torch.cat((states, states.new_ones(len(states), 1)), dim=1)

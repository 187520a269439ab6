"""Sequences of token ids in memory, which the adaptation of a language model is trained on."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.training.data.kept_tokens import Tokens
from pyserini_llm_sparse.training.data.sampling import EpochDataset

TEXTS_AT_A_TIME = 512
WHOLE_TEXT = 1 << 30  # tokens

Sequences = TypeVar("Sequences", bound="TokenSequences")


class TokenSequences(EpochDataset[dict[str, Tensor]]):
    """Sequences of token ids in memory, four bytes a token.

    An item holds ``input_ids``, int64 ``[length]``, and ``targets``, int64 ``[length]``: the token that each position
    predicts, already shifted, and -100 where there is none.

    Attributes:
        texts: Number of texts that were read.
    """

    def __init__(self) -> None:
        self.texts = 0
        self._ids: NDArray[np.int32] = np.zeros(0, np.int32)
        self._ends: NDArray[np.int64] = np.zeros(0, np.int64)  # of each sequence, in _ids
        self._numbers: NDArray[np.int64] = np.zeros(0, np.int64)  # of the sequences that this part of them has

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = self.place(index)
        number = int(self._numbers[place])
        start = int(self._ends[number - 1]) if number else 0
        ids, targets = self._item(self._ids[start : int(self._ends[number])].astype(np.int64), number, epoch)
        return {"input_ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}

    def split(self: Sequences, held_out: int, seed: int) -> tuple[Sequences, Sequences]:
        """Return the sequences to train on and those that are held out, drawn by a seed; both share the tokens.

        Raises:
            DataError: Nothing would be left to train on.
        """
        if held_out >= len(self):
            raise DataError(
                f"held_out_texts: {held_out} of {len(self)} sequences: none would be left to train on; give more texts "
                "or hold out fewer"
            )
        order = np.random.default_rng([seed % 2**63, 0]).permutation(self._numbers)
        train, kept = copy.copy(self), copy.copy(self)
        train._numbers, kept._numbers = np.sort(order[held_out:]), np.sort(order[:held_out])
        return train, kept

    def _hold(self, tokens: Tokens) -> None:
        self._ids, self._ends, self._numbers = tokens.ids, tokens.ends, np.arange(len(tokens.ends))
        self.texts = tokens.counts["texts"]

    def _item(self, ids: NDArray[np.int64], number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return input ids and targets of a sequence."""
        raise NotImplementedError


def as_tokens(ids: array[int], ends: array[int] | range, **counts: int) -> Tokens:
    """Return arrays of ids (type ``i``) and of the sequences' ends as `Tokens`."""
    held = np.frombuffer(ids, dtype=np.int32) if ids else np.zeros(0, np.int32)
    return Tokens(held, np.array(ends, np.int64), counts)


def too_few(texts: int, tokens: int, length: int) -> DataError:
    """Return the error for texts that do not fill one sequence of a length."""
    return DataError(
        f"texts: {texts} texts of {tokens} tokens: they do not fill one sequence of {length}; give more texts, or a "
        "smaller sequence_length"
    )


def in_lists(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in lists that are tokenised together."""
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == TEXTS_AT_A_TIME:
            yield some
            some = []
    if some:
        yield some

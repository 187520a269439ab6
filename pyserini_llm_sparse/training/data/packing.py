"""Texts as sequences for the adaptation of a language model: packed for the next token, single for masked tokens."""

from __future__ import annotations

import copy
import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from pyserini_llm_sparse.training.config.fields import AdaptConfig
from pyserini_llm_sparse.training.data.sampling import EpochDataset
from pyserini_llm_sparse.training.data.sources import read_texts
from pyserini_llm_sparse.training.objectives.language_modelling import NOT_PREDICTED

_logger = logging.getLogger(__name__)

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

    def _hold(self, ids: array[int], ends: NDArray[np.int64]) -> None:
        self._ids = np.frombuffer(ids, dtype=np.int32) if ids else np.zeros(0, np.int32)
        self._ends, self._numbers = ends, np.arange(len(ends))

    def _item(self, ids: NDArray[np.int64], number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return input ids and targets of a sequence."""
        raise NotImplementedError


class PackedTexts(TokenSequences):
    """Texts one after the other in sequences of one length, so that no position is padding.

    Each sequence starts with BOS, and EOS follows each text, as far as the tokenizer has them; a text that does not end
    with its sequence goes on in the next. What does not fill a sequence at the end is left out.

    Attributes:
        left_over: Number of tokens that were left out at the end.
    """

    def __init__(
        self,
        texts: Iterable[str],
        tokenizer: Any,
        config: AdaptConfig,
        vocabulary_size: int | None = None,
    ) -> None:
        """Tokenise texts as they come.

        Args:
            texts: The texts.
            tokenizer: What `Tokenization` takes.
            config: Says how long a sequence is.
            vocabulary_size: Rows of the model's embedding.

        Raises:
            DataError: The texts do not fill one sequence.
        """
        super().__init__()
        length = config.sequence_length
        special = TextTokenizer.from_any(tokenizer)
        before = [] if special.bos_id is None else [special.bos_id]
        after = [] if special.eos_id is None else [special.eos_id]
        room = length - len(before)
        spec = EncodingSpec(attention="causal", add_bos=False, document_max_length=WHOLE_TEXT)
        tokenization = Tokenization(special, spec, vocabulary_size)
        ids, pending = array("i"), list[int]()
        for some in _some(texts):
            for text in tokenization.token_ids(some, "document"):
                self.texts += 1
                pending += text.ids
                pending += after
            full = len(pending) // room * room
            for start in range(0, full, room):
                ids.extend(before)
                ids.extend(pending[start : start + room])
            del pending[:full]
        self.left_over = len(pending)
        if not ids:
            raise DataError(
                f"texts: {self.texts} texts of {self.left_over} tokens: they do not fill one sequence of {length}; "
                "give more texts, or a smaller sequence_length"
            )
        self._hold(ids, np.arange(length, len(ids) + 1, length))
        _logger.info(
            "%d texts in %d sequences of %d tokens; %d tokens left over", self.texts, len(self), length, self.left_over
        )

    def _item(self, ids: NDArray[np.int64], number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return ids, np.append(ids[1:], NOT_PREDICTED)


class MaskedTexts(TokenSequences):
    """Single texts, cut at the sequence length, with tokens masked that the position before them has to predict.

    Masked next-token prediction as LLM2Vec does it (2404.05961, section 2.2; 2502.15526, section 3.1): each token that
    is not special is masked with one probability, drawn by (seed, epoch, text), but for the first of a sequence, which
    no position comes before; at least one is masked.

    Attributes:
        left_out: Number of texts without a token that could be masked.
    """

    def __init__(
        self,
        texts: Iterable[str],
        tokenizer: Any,
        config: AdaptConfig,
        vocabulary_size: int | None = None,
    ) -> None:
        """Tokenise texts as they come; arguments as of `PackedTexts`.

        Raises:
            DataError: The mask token is not one token, or no text has anything to mask.
        """
        super().__init__()
        special = TextTokenizer.from_any(tokenizer)
        self.mask_id = _mask_id(special, config.mask_token, vocabulary_size)
        self.probability, self.seed, self.left_out = config.mask_probability, config.seed % 2**63, 0
        self._special = np.array(special.special_ids(), np.int64)
        spec = EncodingSpec(
            attention="causal", add_bos=special.bos_id is not None, document_max_length=config.sequence_length
        )
        tokenization = Tokenization(special, spec, vocabulary_size)
        ids, ends = array("i"), array("q")
        for some in _some(texts):
            for text in tokenization.token_ids(some, "document"):
                self.texts += 1
                if not self._maskable(np.array(text.ids, np.int64)).any():
                    self.left_out += 1
                    continue
                ids.extend(text.ids)
                ends.append(len(ids))
        if not ends:
            raise DataError(
                f"texts: {self.texts} texts and no token to mask: a text needs two tokens; check what the source holds"
            )
        self._hold(ids, np.array(ends, np.int64))
        _logger.info("%d texts, %d left out for having no token to mask", self.texts, self.left_out)

    def _item(self, ids: NDArray[np.int64], number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        chance = np.random.default_rng([self.seed, epoch, number])
        maskable = self._maskable(ids)
        masked = maskable & (chance.random(len(ids)) < self.probability)
        if not masked.any():
            masked[chance.choice(np.flatnonzero(maskable))] = True
        targets = np.full(len(ids), NOT_PREDICTED, np.int64)
        targets[:-1][masked[1:]] = ids[1:][masked[1:]]
        return np.where(masked, self.mask_id, ids), targets

    def _maskable(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed = ~np.isin(ids, self._special)
        allowed[:1] = False
        return allowed


class SequenceCollator:
    """Makes a batch of sequences, padded on the right."""

    def __init__(self, pad_id: int = 0) -> None:
        """Set the id at positions that are not attended to; any id that the model has will do."""
        self.pad_id = pad_id

    def __call__(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``targets``, int64 ``[batch, length]``."""
        ids = [item["input_ids"] for item in items]
        attention = [torch.ones_like(row) for row in ids]
        targets = [item["targets"] for item in items]
        return {
            name: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
            for name, rows, fill in (
                ("input_ids", ids, self.pad_id),
                ("attention_mask", attention, 0),
                ("targets", targets, NOT_PREDICTED),
            )
        }


def adaptation_data(
    config: AdaptConfig, checkpoint: Checkpoint
) -> tuple[TokenSequences, TokenSequences | None, SequenceCollator]:
    """Return what a run of `adapt` trains on, what it holds out (None for nothing), and what makes batches of both.

    Raises:
        LlmSparseError: A source cannot be read, or gives too little.
    """
    texts = (text for source in config.texts for text in read_texts(source))
    masked = config.objective == "masked-next-token"
    kind: type[PackedTexts | MaskedTexts] = MaskedTexts if masked else PackedTexts
    sequences: TokenSequences = kind(texts, checkpoint.tokenizer, config, checkpoint.vocabulary_size)
    pad_id = checkpoint.tokenizer.pad_id
    collator = SequenceCollator(pad_id if pad_id is not None and pad_id < checkpoint.vocabulary_size else 0)
    if not config.held_out_texts:
        return sequences, None, collator
    training, held_out = sequences.split(config.held_out_texts, config.seed)
    return training, held_out, collator


def _mask_id(tokenizer: TextTokenizer, mask_token: str, vocabulary_size: int | None) -> int:
    """Return the id of the token that masks: one by this name, or else what the tokenizer makes of it as a text."""
    named = tokenizer.backend.token_to_id(mask_token)
    ids = tokenizer.backend.encode(mask_token, add_special_tokens=False).ids if named is None else [named]
    known = vocabulary_size is None or all(token_id < vocabulary_size for token_id in ids)
    if len(ids) != 1 or not known:
        what = f"{len(ids)} tokens" if len(ids) != 1 else "beyond the model's vocabulary"
        raise DataError(
            f"mask_token: {mask_token!r} is {what}: one token must stand for a masked one; set mask_token to a token "
            "that the model has an embedding for"
        )
    return ids[0]


def _some(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield texts in lists that are tokenised together."""
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == TEXTS_AT_A_TIME:
            yield some
            some = []
    if some:
        yield some

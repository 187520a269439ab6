"""Texts packed into sequences for the next token, and what a run of `adapt` trains on: these or masked ones."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

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
from pyserini_llm_sparse.training.data.masking import MaskedTexts
from pyserini_llm_sparse.training.data.sequences import WHOLE_TEXT, TokenSequences, in_lists
from pyserini_llm_sparse.training.data.sources import read_texts
from pyserini_llm_sparse.training.objectives.language_modelling import NOT_PREDICTED

_logger = logging.getLogger(__name__)


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
        for some in in_lists(texts):
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

"""Texts packed into sequences for the next token, and what a run of `adapt` trains on: these or masked ones."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.modelling.folding import normalised
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from pyserini_llm_sparse.training.config.fields import AdaptConfig
from pyserini_llm_sparse.training.data.kept_tokens import Tokens, entry_of, kept_tokens
from pyserini_llm_sparse.training.data.masking import MaskedTexts
from pyserini_llm_sparse.training.data.sequences import WHOLE_TEXT, TokenSequences, as_tokens, in_lists, too_few
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
        entry: Path | None = None,
    ) -> None:
        """Tokenise texts as they come.

        Args:
            texts: The texts; not read if their tokens are kept.
            tokenizer: What `Tokenization` takes.
            config: Says how long a sequence is.
            vocabulary_size: Rows of the model's embedding.
            entry: Where the tokens are kept, see `kept_tokens.entry_of`; None for nowhere.

        Raises:
            DataError: The texts do not fill one sequence.
        """
        super().__init__()
        special, length = TextTokenizer.from_any(tokenizer), config.sequence_length
        tokens = kept_tokens(entry, lambda: _packed(texts, special, length, vocabulary_size))
        self._hold(tokens)
        self.left_over = tokens.counts["left_over"]
        _logger.info(
            "%d texts in %d sequences of %d tokens; %d tokens left over", self.texts, len(self), length, self.left_over
        )

    def _item(self, ids: NDArray[np.int64], number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return ids, np.append(ids[1:], NOT_PREDICTED)


def _packed(texts: Iterable[str], special: TextTokenizer, length: int, vocabulary_size: int | None) -> Tokens:
    before = [] if special.bos_id is None else [special.bos_id]
    after = [] if special.eos_id is None else [special.eos_id]
    room = length - len(before)
    spec = EncodingSpec(attention="causal", add_bos=False, document_max_length=WHOLE_TEXT)
    tokenization = Tokenization(special, spec, vocabulary_size)
    ids, pending, count = array("i"), list[int](), 0
    for some in in_lists(texts):
        for text in tokenization.token_ids(some, "document"):
            count += 1
            pending += text.ids
            pending += after
        full = len(pending) // room * room
        for start in range(0, full, room):
            ids.extend(before)
            ids.extend(pending[start : start + room])
        del pending[:full]
    if not ids:
        raise too_few(count, len(pending), length)
    return as_tokens(ids, range(length, len(ids) + 1, length), texts=count, left_over=len(pending))


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
    config: AdaptConfig, checkpoint: Checkpoint, data: Sequence[Mapping[str, Any]] = ()
) -> tuple[TokenSequences, TokenSequences | None, SequenceCollator]:
    """Return what a run of `adapt` trains on, what it holds out (None for nothing), and what makes batches of both.

    Args:
        config: The run file.
        checkpoint: The model, whose tokenizer is taken.
        data: What is known of the sources, see `sources.source_fingerprints`, by which tokens of theirs are found that
            are kept. Those of sources of which nothing is known are not kept.

    Raises:
        LlmSparseError: A source cannot be read, or gives too little.
    """
    form = config.text_normalisation
    texts = (normalised(text, form) for source in config.texts for text in read_texts(source))
    masked = config.objective == "masked-next-token"
    kind: type[PackedTexts | MaskedTexts] = MaskedTexts if masked else PackedTexts
    packed, length = not masked or config.packed, config.sequence_length
    settings = {"packed": packed, "masked": masked, "length": length, "text_normalisation": form}
    size = checkpoint.vocabulary_size
    entry = entry_of(data, checkpoint.tokenizer, {**settings, "size": size}) if config.keep_tokens else None
    sequences: TokenSequences = kind(texts, checkpoint.tokenizer, config, size, entry)
    pad_id = checkpoint.tokenizer.pad_id
    collator = SequenceCollator(pad_id if pad_id is not None and pad_id < checkpoint.vocabulary_size else 0)
    if not config.held_out_texts:
        return sequences, None, collator
    training, held_out = sequences.split(config.held_out_texts, config.seed)
    return training, held_out, collator

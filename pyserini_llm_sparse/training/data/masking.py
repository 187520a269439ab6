"""Sequences with masked tokens, each of which the position before it has to predict."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from pyserini_llm_sparse.training.config.fields import AdaptConfig
from pyserini_llm_sparse.training.data.kept_tokens import Tokens, kept_tokens
from pyserini_llm_sparse.training.data.sequences import WHOLE_TEXT, TokenSequences, as_tokens, in_lists, too_few
from pyserini_llm_sparse.training.objectives.language_modelling import NOT_PREDICTED

_logger = logging.getLogger(__name__)


class MaskedTexts(TokenSequences):
    """Texts with tokens masked that the position before them has to predict: single ones, cut at the sequence length,
    or one after the other in sequences of one length.

    Masked next-token prediction as LLM2Vec does it (2404.05961, section 2.2; 2502.15526, section 3.1): each token that
    is not special is chosen with one probability, drawn by (seed, epoch, sequence), but for the first of a sequence,
    which no position comes before; at least one is chosen. Chosen tokens are predicted. They are masked, but for a
    share that becomes a random token instead, and one that stays, as in BERT (1810.04805, section 3.1).

    Attributes:
        left_out: Number of single texts without a token that could be masked.
        left_over: Number of tokens at the end that did not fill a sequence.
    """

    def __init__(
        self,
        texts: Iterable[str],
        tokenizer: Any,
        config: AdaptConfig,
        vocabulary_size: int | None = None,
        entry: Path | None = None,
    ) -> None:
        """Tokenise texts as they come; arguments as of `PackedTexts`.

        Raises:
            DataError: The mask token is not one token, or no text has anything to mask.
        """
        super().__init__()
        special = TextTokenizer.from_any(tokenizer)
        self.mask_id = _mask_id(special, config.mask_token, vocabulary_size)
        self.probability, self.seed = config.mask_probability, config.seed % 2**63
        self.random_share, self.kept_share = config.mask_random_share, config.mask_kept_share
        self._special = np.array(special.special_ids(), np.int64)
        size = special.backend.get_vocab_size() if vocabulary_size is None else vocabulary_size
        named = [number for number, token in enumerate(special.tokens(size)) if token is not None]
        self._ordinary = np.setdiff1d(np.array(named, np.int64), self._special)
        tokens = kept_tokens(entry, lambda: self._tokens(texts, special, config, vocabulary_size))
        self._hold(tokens)
        self.left_out, self.left_over = tokens.counts["left_out"], tokens.counts["left_over"]
        _logger.info(
            "%d texts in %d sequences; %d texts left out for having no token to mask, %d tokens left over",
            self.texts, len(self), self.left_out, self.left_over,
        )  # fmt: skip

    def _tokens(
        self, texts: Iterable[str], special: TextTokenizer, config: AdaptConfig, vocabulary_size: int | None
    ) -> Tokens:
        length, count, left_out, left_over = config.sequence_length, 0, 0, 0
        spec = EncodingSpec(
            attention="causal",
            add_bos=special.bos_id is not None,
            document_max_length=WHOLE_TEXT if config.packed else length,
        )
        tokenization = Tokenization(special, spec, vocabulary_size)
        ids, ends = array("i"), array("q")
        for some in in_lists(texts):
            for text in tokenization.token_ids(some, "document"):
                count += 1
                if not config.packed and not self._maskable(np.array(text.ids, np.int64)).any():
                    left_out += 1
                    continue
                ids.extend(text.ids)
                ends.append(len(ids))
        if config.packed:
            left_over = len(ids) % length
            ends = array("q", range(length, len(ids) + 1, length))
        if not ends:
            if config.packed:
                raise too_few(count, left_over, length)
            raise DataError(
                f"texts: {count} texts and no token to mask: a text needs two tokens; check what the source holds"
            )
        return as_tokens(ids, ends, texts=count, left_out=left_out, left_over=left_over)

    def _item(self, ids: NDArray[np.int64], number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        chance = np.random.default_rng([self.seed, epoch, number])
        maskable = self._maskable(ids)
        chosen = maskable & (chance.random(len(ids)) < self.probability)
        if not chosen.any() and maskable.any():
            chosen[chance.choice(np.flatnonzero(maskable))] = True
        targets = np.full(len(ids), NOT_PREDICTED, np.int64)
        targets[:-1][chosen[1:]] = ids[1:][chosen[1:]]
        shown = np.where(chosen, self.mask_id, ids)
        if self.random_share or self.kept_share:
            lot = chance.random(len(ids))
            kept = chosen & (lot < self.kept_share)
            other = chosen & ~kept & (lot < self.kept_share + self.random_share)
            shown = np.where(kept, ids, np.where(other, chance.choice(self._ordinary, len(ids)), shown))
        return shown, targets

    def _maskable(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed = ~np.isin(ids, self._special)
        allowed[:1] = False
        return allowed


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

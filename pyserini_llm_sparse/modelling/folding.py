"""Terms that several tokens share: the same word but for case, leading space and Unicode form.

A causal model's tokenizer keeps a text whole, so " Aspirin", "Aspirin" and "aspirin" are tokens of their own, and a
query's never meets a document's. Folded they are one term, as words are for an analyser (2601.17500, section 3).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer

_SPACE_OF_SENTENCEPIECE = "\u2581"  # in the tokens of a tokenizer that names no decoder
_PART_OF_A_CHARACTER = "\ufffd"  # what a tokenizer's decoder makes of bytes that are no text by themselves


@dataclass(frozen=True)
class Folding:
    """Which term each token belongs to.

    Attributes:
        term_of: int64 ``[vocabulary]``, the token that stands for the term of each; itself where nothing is folded.
        names: What each term is called, at the token that stands for it; None at all others.
    """

    term_of: NDArray[np.int64]
    names: list[str | None]

    @cached_property
    def stands(self) -> NDArray[np.bool_]:
        """``[vocabulary]``, true for tokens that stand for a term."""
        return np.array([name is not None for name in self.names])

    def of_table(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fold weights ``[vocabulary]``: the largest of a term's tokens, 0 at those that stand for none."""
        folded = np.zeros_like(table)
        np.maximum.at(folded, self.term_of, table)
        return np.where(self.stands, folded, np.float32(0))


def fold_surfaces(tokenizer: TextTokenizer, tokens: list[str | None], allowed: NDArray[np.bool_]) -> Folding:
    """Fold tokens by `surface`. Of a term's tokens the one with the lowest id, mostly the most frequent, stands for it.

    Added and special tokens, white space and parts of characters stay terms of their own.

    Args:
        tokenizer: The tokenizer, whose decoder knows what a leading space looks like.
        tokens: The token text of each id; None for an id without a token.
        allowed: ``[vocabulary]``, true for ids that may become terms; the others are folded into none.
    """
    apart = {*tokenizer.special_ids(), *tokenizer.added_ids()}
    term_of = np.arange(len(tokens), dtype=np.int64)
    names = [token if may else None for token, may in zip(tokens, allowed.tolist(), strict=True)]
    ordinary = [number for number, name in enumerate(names) if name is not None and number not in apart]
    texts = tokenizer.backend.decode_batch([[number] for number in ordinary], skip_special_tokens=False)
    standing: dict[str, int] = {}
    for number, text in zip(ordinary, texts, strict=True):
        word = surface(text)
        if not word or _PART_OF_A_CHARACTER in text:
            continue
        term_of[number] = standing.setdefault(word, number)
        names[number] = word if term_of[number] == number else None
    return Folding(term_of, names)


def surface(text: str) -> str:
    """Return what a token's text is folded to: NFKC, lower case, without white space around it.

    >>> surface(" Aspirin"), surface("\\u2581Aspirin"), surface("\\uff21spirin"), surface("  ")
    ('aspirin', 'aspirin', 'aspirin', '')
    """
    return normalised(text.replace(_SPACE_OF_SENTENCEPIECE, " "), "lowercase").strip()


def normalised(text: str, form: str) -> str:
    """Return a text in the form that the encoding spec calls ``text_normalisation``.

    >>> normalised("\\ufb01sh in H\\u2082O", "nfkc"), normalised("\\ufb01sh in H\\u2082O", "lowercase")
    ('fish in H2O', 'fish in h2o')
    """
    if form == "none":
        return text
    composed = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return composed.lower() if form == "lowercase" else composed

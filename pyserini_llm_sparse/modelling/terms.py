"""Names for vocabulary entries that Lucene and Pyserini keep whole, unique and reversible.

Lucene's white-space analysis splits, strips or merges some token texts, Pyserini's Python side drops others, and terms
above 255 UTF-16 units are cut into pieces that corrupt other terms' weights (anserini#1843). A term is safe if it is
not empty, has at most 255 UTF-16 units, and holds no lone surrogate, no U+FEFF, no white space in the sense of Python
or Java, and no control character. Nearly all tokens are; the others are escaped, so ordinary terms stay readable.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ESCAPE = "␛"  # U+241B, SYMBOL FOR ESCAPE: in no vocabulary that we know, and escaped itself where it occurs
MAXIMUM_UNITS = 255


def escape(token: str) -> str:
    """Return the token with each unsafe character, and the escape sign itself, as ``␛<hexadecimal>;``.

    The result is safe unless the token is empty or too long; `TermVocabulary` names those by number.
    """
    if token.isascii() and token.isprintable() and " " not in token:
        return token
    return "".join(
        f"{ESCAPE}{ord(character):x};" if character == ESCAPE or _unsafe(character) else character
        for character in token
    )


class TermVocabulary:
    """The terms of a tokenizer's vocabulary, by token id.

    Attributes:
        terms: Object array ``[vocabulary]`` of the term of each id; None for an id without a token, which is never a
            term.
    """

    def __init__(self, tokens: Sequence[str | None], naming: str = "token") -> None:
        """Name the tokens.

        Args:
            tokens: The token text of each id, None where there is none.
            naming: ``token`` for readable terms, ``id`` for decimal ids.
        """
        self.terms: NDArray[np.object_] = np.empty(len(tokens), dtype=object)
        taken: set[str] = set()
        for token_id, token in enumerate(tokens):
            if token is None:
                continue
            term = str(token_id) if naming == "id" else escape(token)
            if _units(term) > MAXIMUM_UNITS or not term or term in taken:
                # Empty, too long for Lucene, or two ids with one text: only the number tells it apart.
                term = f"{ESCAPE}#{token_id};"
            self.terms[token_id] = term
            taken.add(term)


def _units(text: str) -> int:
    """Length in UTF-16 units, as Lucene counts."""
    return len(text) + sum(character > "\uffff" for character in text)


def _unsafe(character: str) -> bool:
    """Tell whether a character is lost, split at, or changed on its way into or out of Lucene."""
    return (
        character.isspace()  # includes all that java.lang.Character.isWhitespace knows
        or character == "\ufeff"
        or unicodedata.category(character) in ("Cc", "Cs")
    )

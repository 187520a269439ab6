"""Terms are safe for Lucene, unique and reversible, whatever the vocabulary holds."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pyserini_llm_sparse.modelling.terms import ESCAPE, TermVocabulary, escape

NASTY = [
    "Ġthe", "▁the", "▁", "##ing", "<0x0A>", "<|end_of_text|>", "\n", "\t", " ", "a b", " a", "a ", "\x00", "\x1c",
    "\x85", "\xa0", "\u2007", "\u2028", "\u3000", "\ufeff", "x\ufeffy", "\ud800", "\udfff", ESCAPE, f"{ESCAPE}20;",
    f"{ESCAPE}#3;", "", "\x7f", "\u200b", "\u00ad", "x" * 255, "x" * 256, "𝒳" * 128, " " * 64, "\r\n", "a,b", "a|b",
    "a^2", "f:t", "*", "\\n",
]  # fmt: skip
tokens = st.text(max_size=300) | st.sampled_from(NASTY)


def is_safe(term: str) -> bool:
    """Tell whether Lucene, Anserini and Pyserini keep a text as one term: what each of them was seen to spoil."""
    spoilt = any(part.isspace() or part == "\ufeff" or unicodedata.category(part) in ("Cc", "Cs") for part in term)
    return bool(term) and not spoilt and len(term.encode("utf-16-le")) // 2 <= 255


def unescape(term: str) -> str:
    return re.sub(f"{ESCAPE}([0-9a-f]+);", lambda found: chr(int(found.group(1), 16)), term)


@given(tokens)
def test_escaping_is_reversible(token: str) -> None:
    assert unescape(escape(token)) == token


@given(st.text(min_size=1, max_size=20) | st.sampled_from([token for token in NASTY if 0 < len(token) < 40]))
def test_an_escaped_token_is_safe(token: str) -> None:
    assert is_safe(escape(token))


@given(
    st.text(
        alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters=[ESCAPE, "\ufeff"])
    )
)
def test_an_ordinary_token_is_left_alone(token: str) -> None:
    assert escape(token) == token


@given(st.lists(tokens, max_size=30))
def test_a_vocabulary_has_one_safe_term_for_each_id(vocabulary: list[str]) -> None:
    named = TermVocabulary(vocabulary)
    assert all(is_safe(term) for term in named.terms)
    assert len(set(named.terms)) == len(vocabulary)
    numbered = {term for term in named.terms if term.startswith(f"{ESCAPE}#")}
    assert all(
        term == f"{ESCAPE}#{number};" if term in numbered else unescape(term) == token
        for number, (token, term) in enumerate(zip(vocabulary, named.terms, strict=True))
    )


def test_the_nasty_tokens_all_survive() -> None:
    named = TermVocabulary(NASTY)
    assert len(set(named.terms)) == len(NASTY)
    for token, term in zip(NASTY, named.terms, strict=True):
        assert is_safe(term) and (unescape(term) == token or term.startswith(f"{ESCAPE}#")), token


def test_ids_without_a_token_are_no_terms() -> None:
    named = TermVocabulary(["a", None, "b"])
    assert list(named.terms) == ["a", None, "b"]


def test_terms_can_be_ids() -> None:
    assert list(TermVocabulary(["a", None, "b c"], naming="id").terms) == ["0", None, "2"]


def test_no_space_of_any_kind_is_safe() -> None:
    spaces = [chr(code) for code in range(0x3001) if unicodedata.category(chr(code)) in ("Zs", "Zl", "Zp", "Cc")]
    assert len(spaces) > 60
    assert not [space for space in spaces if is_safe(f"a{space}b")]

"""Terms are safe for Lucene, unique and reversible, whatever the vocabulary holds."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pyserini_llm_sparse.modelling.terms import ESCAPE, TermVocabulary, escape, is_safe, unescape

NASTY = [
    "Ġthe", "▁the", "▁", "##ing", "<0x0A>", "<|end_of_text|>", "\n", "\t", " ", "a b", " a", "a ", "\x00", "\x1c",
    "\x85", "\xa0", "\u2007", "\u2028", "\u3000", "\ufeff", "x\ufeffy", "\ud800", "\udfff", ESCAPE, f"{ESCAPE}20;",
    f"{ESCAPE}#3;", "", "\x7f", "\u200b", "\u00ad", "x" * 255, "x" * 256, "𝒳" * 128, " " * 64, "\r\n", "a,b", "a|b",
    "a^2", "f:t", "*", "\\n",
]  # fmt: skip
tokens = st.text(max_size=300) | st.sampled_from(NASTY)


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
    assert [named.id_of(term) for term in named.terms] == list(range(len(vocabulary)))
    assert [named.token_of(term) for term in named.terms] == vocabulary


def test_the_nasty_tokens_all_survive() -> None:
    named = TermVocabulary(NASTY)
    assert len(set(named.terms)) == len(NASTY)
    for token, term in zip(NASTY, named.terms, strict=True):
        assert is_safe(term) and named.token_of(term) == token


def test_ids_without_a_token_are_no_terms() -> None:
    named = TermVocabulary(["a", None, "b"])
    assert list(named.terms) == ["a", None, "b"]
    assert "a" in named and None not in named


def test_terms_can_be_ids() -> None:
    assert list(TermVocabulary(["a", None, "b c"], naming="id").terms) == ["0", None, "2"]


def test_no_space_of_any_kind_is_safe() -> None:
    spaces = [chr(code) for code in range(0x3001) if unicodedata.category(chr(code)) in ("Zs", "Zl", "Zp", "Cc")]
    assert len(spaces) > 60
    assert not [space for space in spaces if is_safe(f"a{space}b")]

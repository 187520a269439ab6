"""What an encoder makes of a text: its terms, and which of them the text itself contains."""

from __future__ import annotations

from dataclasses import dataclass

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.modelling.spec import Side
from pyserini_llm_sparse.modelling.tokenization import Tokenization


@dataclass(frozen=True)
class TermImpact:
    """A term of a vector, and whether the text itself contains it."""

    term: str
    impact: int
    own: bool


def term_impacts(encoder: SparseEncoder, text: str, side: Side) -> list[TermImpact]:
    """Return the terms of a text's vector, the heaviest first; special tokens and prefix do not count as its own."""
    impacts = (encoder.query_impacts if side == "query" else encoder.document_impacts)([text])[0]
    of_text = encoder.spec.replace(pooled_span="text")
    tokenization = Tokenization(encoder.checkpoint.tokenizer, of_text, encoder.checkpoint.vocabulary_size)
    ids, span = tokenization.token_ids([text], side)[0]
    own = {encoder.vocabulary.terms[token_id] for token_id in ids[span.start : span.stop]}
    ordered = sorted(impacts.items(), key=lambda item: (-item[1], item[0]))
    return [TermImpact(term, impact, term in own) for term, impact in ordered]

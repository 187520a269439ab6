"""Contracts of published models, which say nothing of them themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedModel:
    """What a published checkpoint does not say itself: its contract (docs of the model, or its paper's code).

    Attributes:
        spec: Fields of its encoding spec.
        tokenizer: Whose tokenizer it uses, if it comes without one.
        subfolder: Where in the repository it lies.
        hidden_size_exponent: The logit scale is the model's hidden size to this power.
    """

    spec: dict[str, Any]
    tokenizer: str | None = None
    subfolder: str | None = None
    hidden_size_exponent: float = 0.0


_LION = PublishedModel(  # arXiv 2502.15526 and the model's README
    {"attention": "bidirectional", "add_bos": True, "query_max_length": 64, "document_max_length": 192},
    hidden_size_exponent=-0.25,
)


_LACONIC = PublishedModel(  # arXiv 2601.01684; without a tokenizer of its own, all three sizes have that of Llama 3
    {
        "attention": "bidirectional", "add_bos": False, "query_prefix": "query: ", "document_prefix": "passage: ",
        "query_max_length": 256, "document_max_length": 256, "query_top_k": 512, "document_top_k": 512,
    },
    tokenizer="meta-llama/Llama-3.2-1B",
)  # fmt: skip


_SPLADE_CODE = {
    "attention": "bidirectional", "add_bos": False, "query_max_length": 1024, "document_max_length": 1024,
}  # fmt: skip


PUBLISHED: dict[str, PublishedModel] = {
    "hzeng/lion-sp-1b-llama3-marco-mntp": _LION,
    "hzeng/lion-sp-8b-llama3-marco-mntp": _LION,
    "utahnlp/laconic-1b": _LACONIC,
    "utahnlp/laconic-3b": _LACONIC,
    "utahnlp/laconic-8b": _LACONIC,
    "naver/splade-code-06b": PublishedModel(_SPLADE_CODE),
    "naver/splade-code-8b": PublishedModel(_SPLADE_CODE, subfolder="lora"),
}


# Of masked language models without a spec: what Pyserini's own encoders of SPLADE do (arXiv 2109.10086).
SPLADE: dict[str, Any] = {
    "attention": "bidirectional", "query_max_length": 256, "document_max_length": 256, "impact_factor": 256 / 5,
}  # fmt: skip


def published(model: str) -> PublishedModel | None:
    """Return the contract of a published model by its hub id, in any case of letters; None if it is not known."""
    return PUBLISHED.get(model.lower())

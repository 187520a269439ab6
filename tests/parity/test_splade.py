"""A masked language model is encoded as SPLADE: as Pyserini's own encoders do, and as the formula says, naively."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pyserini_llm_sparse.encoder import SparseEncoder
from tests.checkpoints import TEXTS, checkpoint
from tests.masked_checkpoints import MASKED_FAMILIES, POSITIONS

LONG = " ".join(TEXTS * 20)
NEAR = 1e-3  # of a half, where the last bit of a float can decide how an impact is rounded


def assert_same_impacts(encoder: SparseEncoder, side: str, theirs: list[dict[str, float]], **options: int) -> None:
    """Impacts are equal, but where the exact weight lies at the edge between two."""
    encode, weigh = {
        "query": (encoder.query_impacts, encoder.encode_queries),
        "document": (encoder.document_impacts, encoder.encode_documents),
    }[side]
    texts = [*TEXTS, LONG]
    weights = weigh(texts, **options).rows(encoder.vocabulary.terms)
    for own, other, exact in zip(encode(texts, **options), theirs, weights, strict=True):
        assert any(own.values()), "an empty vector proves nothing"
        for term in {*own, *other}:
            if own.get(term, 0) != other.get(term, 0):
                edge = exact.get(term, 0) * encoder.spec.impact_factor % 1
                assert abs(own.get(term, 0) - other.get(term, 0)) == 1 and abs(edge - 0.5) < NEAR, term


@pytest.mark.parametrize("name", MASKED_FAMILIES)
@pytest.mark.parametrize("max_length", [256, 16])
def test_impacts_of_documents_are_those_of_pyserinis_encoder(name: str, max_length: int) -> None:
    from pyserini.encode import SpladeDocumentEncoder

    folder = str(checkpoint(name))
    theirs = SpladeDocumentEncoder(folder, device="cpu").encode([*TEXTS, LONG], max_length=max_length)
    assert_same_impacts(SparseEncoder.load(folder, device="cpu"), "document", theirs, max_length=max_length)


@pytest.mark.parametrize("name", MASKED_FAMILIES)
def test_impacts_of_queries_are_those_of_pyserinis_encoder(name: str) -> None:
    from pyserini.encode import SpladeQueryEncoder

    folder = str(checkpoint(name))
    encoder = SpladeQueryEncoder(folder)
    theirs = [encoder.encode(text) for text in (*TEXTS, LONG)]  # its length is 256, and so is ours
    assert_same_impacts(SparseEncoder.load(folder, device="cpu"), "query", theirs)


def naive(folder: Path, text: str) -> np.ndarray:
    """Return weights ``[vocabulary]`` in float64: one text, all logits, the tokenizer's own special tokens."""
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=256)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"]).logits[0]
    return torch.log1p(torch.relu(logits.amax(0))).numpy()


@pytest.mark.parametrize("name", MASKED_FAMILIES)
def test_batched_and_padded_equals_the_formula(name: str) -> None:
    folder, texts = checkpoint(name), [*TEXTS, LONG]
    ours = SparseEncoder.load(str(folder), device="cpu").encode_documents(texts, batch_size=6).matrix.toarray()
    expected = np.stack([naive(folder, text) for text in texts])
    assert (expected > 0).any(axis=1).all() and (expected == 0).any(axis=1).all()
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MASKED_FAMILIES)
def test_a_vector_does_not_depend_on_its_neighbours(name: str) -> None:
    encoder = SparseEncoder.load(str(checkpoint(name)), device="cpu")
    together = encoder.encode_documents(TEXTS, batch_size=5).matrix.toarray()
    alone = np.concatenate([encoder.encode_documents([text]).matrix.toarray() for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MASKED_FAMILIES)
def test_a_text_may_have_as_many_tokens_as_the_model_has_positions(name: str) -> None:
    folder = checkpoint(name)
    text = " ".join(TEXTS * 30)
    encoder = SparseEncoder.load(str(folder), device="cpu", document_max_length=POSITIONS)
    assert len(encoder.tokenization.token_ids([text], "document")[0].ids) == POSITIONS
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=POSITIONS)
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained(folder)(**inputs).logits[0]
    expected = torch.log1p(torch.relu(logits.amax(0))).numpy()
    np.testing.assert_allclose(encoder.encode_documents([text]).matrix.toarray()[0], expected, atol=1e-4, rtol=0)


def test_the_layout_of_sentence_transformers_gives_that_librarys_vectors() -> None:
    from sentence_transformers import SparseEncoder as Theirs

    folder = str(checkpoint("splade_sentence_transformers"))
    expected = Theirs(folder, device="cpu").encode(list(TEXTS), convert_to_sparse_tensor=False).numpy()
    ours = SparseEncoder.load(folder, device="cpu").encode_documents(TEXTS).matrix.toarray()
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_the_formula(dtype: str) -> None:
    folder = checkpoint("bert_splade")
    ours = SparseEncoder.load(str(folder), dtype=dtype, device="cpu").encode_documents(TEXTS).matrix.toarray()
    expected = np.stack([naive(folder, text) for text in TEXTS])
    cosine = (ours * expected).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.99

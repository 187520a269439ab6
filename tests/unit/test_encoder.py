"""The public encoder: order, batches, top-k, excluded terms, empty texts, inference-free queries, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.errors import DataError, LlmSparseError, UsageError
from pyserini_llm_sparse.modelling.names import SPEC_FILE
from tests.checkpoints import TEXTS, change_json, checkpoint, copied

MANY = [f"{text} {number} wing" for number in range(4) for text in TEXTS]


@pytest.fixture(scope="module")
def encoder() -> SparseEncoder:
    return SparseEncoder.load(str(checkpoint("llama_bidirectional")))


def test_rows_are_in_the_order_of_the_texts(encoder: SparseEncoder) -> None:
    vectors = encoder.encode_documents(MANY, batch_size=3)
    assert len(vectors) == len(MANY)
    for row, text in enumerate(MANY):
        alone = encoder.encode_documents([text])
        np.testing.assert_allclose(vectors[[row]].matrix.toarray(), alone.matrix.toarray(), atol=1e-5)


def test_no_batch_has_more_texts_or_tokens_than_allowed(
    encoder: SparseEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    backbone = encoder.engine.backbone
    handle = backbone.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape))
    )
    monkeypatch.setattr(encoder, "_batch_tokens", 64)
    try:
        encoder.encode_documents(MANY, batch_size=4)
    finally:
        handle.remove()
    assert sum(texts for texts, _ in seen) == len(MANY)
    assert all(texts <= 4 and texts * length <= 64 for texts, length in seen)
    assert [length for _, length in seen] == sorted((length for _, length in seen), reverse=True)


@pytest.mark.parametrize("name", ["llama_bidirectional", "inference_free"])
def test_a_text_without_content_has_an_empty_vector(name: str) -> None:
    own = SparseEncoder.load(str(checkpoint(name)))
    for encode in (own.query_impacts, own.document_impacts):
        found = encode([None, "wing", "", " \n"])
        assert [bool(row) for row in found] == [False, True, False, False]
        assert encode([None]) == [{}]
        assert encode([]) == []


def test_impacts_are_python_integers_of_readable_terms(encoder: SparseEncoder) -> None:
    found = encoder.document_impacts(TEXTS)
    assert all(type(impact) is int and impact > 0 for row in found for impact in row.values())
    weights = encoder.encode_documents(TEXTS)
    term, impact = next(iter(found[0].items()))
    assert impact == round(float(weights.matrix[0, list(encoder.vocabulary.terms).index(term)]) * 100)


def test_top_k_keeps_the_heaviest_terms(encoder: SparseEncoder) -> None:
    limited = SparseEncoder.load(str(checkpoint("llama_bidirectional")), document_top_k=7, query_top_k=3)
    expected = encoder.encode_documents(TEXTS).top_k(7).matrix.toarray()
    np.testing.assert_allclose(limited.encode_documents(TEXTS).matrix.toarray(), expected, atol=1e-5)
    assert set(limited.encode_queries(TEXTS).active_terms()) == {3}


def test_top_k_decides_between_equals_by_id(tmp_path: Path) -> None:
    """All rows of the head are equal, so all weights are: the k lowest allowed ids stay."""
    own = SparseEncoder.load(str(checkpoint("qwen2_causal")), document_top_k=5, excluded_token_ids="0,1,2,4")
    with torch.inference_mode():
        own.engine.backbone.head_weight[:] = -own.engine.backbone.head_weight[:1].clone()
    found = own.encode_documents(["the wing", "a heart"])
    for row in range(2):
        assert found.matrix.indices[found.matrix.indptr[row] : found.matrix.indptr[row + 1]].tolist() in (
            [3, 5, 6, 7, 8],
            [],
        )
    assert found.matrix.nnz


def test_excluded_ids_never_become_terms(encoder: SparseEncoder) -> None:
    full = encoder.encode_documents(TEXTS)
    excluded = np.unique(full.matrix.indices)[:9].tolist()
    own = SparseEncoder.load(str(checkpoint("llama_bidirectional")), excluded_token_ids=excluded)
    found = own.encode_documents(TEXTS)
    assert not set(excluded) & set(found.matrix.indices.tolist())
    assert found.matrix.nnz == full.matrix.nnz - np.isin(full.matrix.indices, excluded).sum()
    assert all(own.vocabulary.terms[number] is None for number in excluded)


def test_terms_can_be_ids() -> None:
    own = SparseEncoder.load(str(checkpoint("llama_causal")), term_naming="id")
    assert all(term.isdigit() for term in own.document_impacts(["wing"])[0])


def test_inference_free_queries_are_counted_terms_of_the_table() -> None:
    own = SparseEncoder.load(str(checkpoint("inference_free")))
    table = own.checkpoint.query_term_weights
    assert table is not None
    text = "the wing, the wing and the heart"
    ids = own.tokenization.tokenizer.backend.encode(text, add_special_tokens=False).ids
    expected = np.zeros(len(table))
    for token_id in ids:
        expected[token_id] += max(table[token_id], 0)
    np.testing.assert_allclose(own.encode_queries([text]).matrix.toarray()[0], expected, rtol=1e-6)
    once = SparseEncoder.load(str(checkpoint("inference_free")), query_term_counts="false")
    present = np.where(expected > 0, table, 0)
    np.testing.assert_allclose(once.encode_queries([text]).matrix.toarray()[0], present, rtol=1e-6)


def test_inference_free_queries_never_load_the_model(tmp_path: Path) -> None:
    own = SparseEncoder.load(str(checkpoint("inference_free")), query_top_k=2)
    assert own.encode_queries(["the wing of a heart"]).active_terms().tolist() == [2]
    assert own._engine is None


def test_documents_of_an_inference_free_model_go_through_the_model() -> None:
    own = SparseEncoder.load(str(checkpoint("inference_free")))
    spec = {"query_encoder": "model", "query_term_counts": "false", "query_max_length": 32}
    model = SparseEncoder.load(str(checkpoint("inference_free")), **spec)
    np.testing.assert_array_equal(
        own.encode_documents(TEXTS).matrix.toarray(), model.encode_queries(TEXTS).matrix.toarray()
    )


def test_threads_get_the_vectors_that_one_thread_gets() -> None:
    own = SparseEncoder.load(str(checkpoint("mistral_echo")))
    expected = [own.query_impacts([text])[0] for text in MANY]
    fresh = SparseEncoder.load(str(checkpoint("mistral_echo")))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: fresh.query_impacts([text])[0], MANY)) == expected


def test_hard_texts_do_not_stop_a_batch(encoder: SparseEncoder) -> None:
    texts = ["a\ud800", "\x00", "wing " * 200_000, "\u202e\u0301", "\ufeff", "😀" * 50]
    vectors = encoder.encode_documents(texts)
    assert len(vectors) == len(texts)
    assert (vectors.active_terms() > 0).all()


def test_a_given_maximum_length_shortens_texts(encoder: SparseEncoder) -> None:
    whole, short = (encoder.encode_documents([TEXTS[3]], max_length=length) for length in (None, 3))
    start = encoder.encode_documents([TEXTS[3][:7]], max_length=3)
    assert (whole.matrix != short.matrix).nnz
    np.testing.assert_allclose(short.matrix.toarray(), start.matrix.toarray(), atol=1e-5)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_overflow_is_an_error_and_not_an_empty_vector(value: float) -> None:
    own = SparseEncoder.load(str(checkpoint("qwen2_bidirectional")))
    with torch.inference_mode():
        own.engine.backbone.head_weight[7, 3] = value
    with pytest.raises(DataError, match=r"not finite.*lm_head"):
        own.document_impacts(TEXTS)


def test_one_string_is_not_a_list_of_letters(encoder: SparseEncoder) -> None:
    with pytest.raises(UsageError, match="a list of texts"):
        encoder.encode_queries("wing")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch size 0"):
        encoder.encode_queries(["wing"], batch_size=0)


def test_every_message_is_one_line(tmp_path: Path) -> None:
    folder = copied("llama_causal", tmp_path / "model")
    change_json(folder / "config.json", model_type="unheard-of")
    change_json(folder / SPEC_FILE, model_fingerprint="")
    own = SparseEncoder.load(str(folder))
    with pytest.raises(LlmSparseError) as caught:
        own.encode_documents(["wing"])
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_device_is_known_before_the_model_is_loaded() -> None:
    own = SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu")
    assert own.device == torch.device("cpu")
    assert own._engine is None

"""Repeated single queries: encoded once, the same to the bit, within bounds, from any thread, and never shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.modelling.query_cache import QueryCache
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from tests.checkpoints import TEXTS, checkpoint

MANY = [f"{text} {number} wing" for number in range(4) for text in TEXTS]


@pytest.fixture
def encoder() -> SparseEncoder:
    return SparseEncoder.load(str(checkpoint("llama_bidirectional")), device="cpu")


@pytest.fixture
def batches(encoder: SparseEncoder) -> Iterator[list[tuple[int, ...]]]:
    """The shape of each batch that the model computed."""
    seen: list[tuple[int, ...]] = []
    handle = encoder.engine.backbone.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape))
    )
    yield seen
    handle.remove()


def same_bits(one: SparseVectors, two: SparseVectors) -> bool:
    names = ("indptr", "indices", "data")
    return all(np.array_equal(getattr(one.matrix, name), getattr(two.matrix, name)) for name in names)


def vector_of(text: str) -> SparseVectors:
    """A vector that shows which text it was made of; 100 terms, so 800 bytes of numbers."""
    return SparseVectors.from_rows([range(100)], [np.full(100, 1 + len(text))], 100)


def counted(encoded: list[str], text: str) -> Callable[[], SparseVectors]:
    def encode() -> SparseVectors:
        encoded.append(text)
        return vector_of(text)

    return encode


@pytest.mark.parametrize("name", ["llama_bidirectional", "mistral_echo", "qwen3_causal"])
def test_a_repeated_query_has_the_vector_of_an_encoder_that_never_saw_it(name: str) -> None:
    first, second = (SparseEncoder.load(str(checkpoint(name)), device="cpu") for _ in range(2))
    for text in MANY:
        missed, fresh = first.encode_queries([text]), second.encode_queries([text])
        hit = first.encode_queries([text])
        assert same_bits(missed, hit)
        assert same_bits(fresh, hit)
        assert first.query_impacts([text]) == second.query_impacts([text])
    assert len(first.query_cache) == len(set(MANY))


def test_a_repeated_query_goes_through_the_model_once(encoder: SparseEncoder, batches: list[tuple[int, ...]]) -> None:
    for _ in range(3):
        encoder.encode_queries(["wing"])
        encoder.query_impacts(["wing"])
    assert len(batches) == 1
    encoder.query_cache.clear()
    encoder.encode_queries(["wing"])
    assert len(batches) == 2


def test_queries_of_another_length_or_side_are_others(encoder: SparseEncoder, batches: list[tuple[int, ...]]) -> None:
    text = TEXTS[3]
    whole, short = encoder.encode_queries([text]), encoder.encode_queries([text], max_length=3)
    document = encoder.encode_documents([text])
    assert len(batches) == 3
    assert not same_bits(whole, short)
    assert same_bits(encoder.encode_queries([text], max_length=3), short)
    assert not same_bits(document, short)
    assert len(batches) == 3


def test_a_batch_neither_uses_nor_fills_the_cache(encoder: SparseEncoder, batches: list[tuple[int, ...]]) -> None:
    encoder.encode_queries(TEXTS)
    assert len(encoder.query_cache) == 0
    encoder.encode_queries([TEXTS[0]])
    encoder.encode_queries(TEXTS)
    assert sum(rows for rows, _ in batches) == 2 * len(TEXTS) + 1


def test_queries_without_a_model_are_not_kept() -> None:
    encoder = SparseEncoder.load(str(checkpoint("inference_free")), device="cpu")
    assert encoder.query_impacts(["the wing"]) == encoder.query_impacts(["the wing"])
    assert len(encoder.query_cache) == 0


def test_what_a_caller_does_to_a_vector_reaches_nobody_else(encoder: SparseEncoder) -> None:
    expected = encoder.encode_queries(["wing"]).matrix.toarray()
    for _ in range(2):  # the first is the one that was kept, the second one that was handed out
        encoder.encode_queries(["wing"]).matrix.data[:] = -1
        encoder.encode_queries(["wing"]).matrix.indices[:] = 0
        np.testing.assert_array_equal(encoder.encode_queries(["wing"]).matrix.toarray(), expected)
    encoder.query_cache.clear()
    missed = encoder.encode_queries(["wing"])
    missed.matrix.data[:] = -1
    np.testing.assert_array_equal(encoder.encode_queries(["wing"]).matrix.toarray(), expected)


def test_a_kept_query_excuses_no_wrong_call(encoder: SparseEncoder) -> None:
    encoder.encode_queries(["w"])
    with pytest.raises(UsageError, match="a list of texts"):
        encoder.encode_queries("w")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch size 0"):
        encoder.encode_queries(["w"], batch_size=0)
    with pytest.raises(DataError, match="not a string"):
        encoder.encode_queries([["w"]])  # type: ignore[list-item]


def test_an_error_is_not_kept(encoder: SparseEncoder) -> None:
    with pytest.raises(UsageError, match="leaves no room"):
        encoder.encode_queries(["wing"], max_length=1)
    assert len(encoder.query_cache) == 0


def test_the_cache_has_a_bound_and_keeps_what_was_asked_for_last() -> None:
    cache, encoded = QueryCache(largest=6000), []  # room for three
    for text in ("a", "b", "c", "a", "d", "a", "c"):
        cache.vector(text, None, counted(encoded, text))
    assert encoded == ["a", "b", "c", "d"]
    assert len(cache) == 3
    cache.vector("b", None, counted(encoded, "b"))
    assert encoded == ["a", "b", "c", "d", "b"]


@pytest.mark.parametrize("text", ["a", "long " * 1000])
def test_what_is_larger_than_the_bound_is_not_kept(text: str) -> None:
    cache, encoded = QueryCache(largest=1000), []
    assert same_bits(cache.vector(text, None, counted(encoded, text)), vector_of(text))
    assert len(cache) == 0
    cache.vector(text, None, counted(encoded, text))
    assert encoded == [text, text]


def test_threads_get_the_right_vectors_while_others_are_dropped() -> None:
    cache = QueryCache(largest=8000)  # fewer than the queries

    def ask(number: int) -> bool:
        text = "w" * (number * 7 % 20)
        return same_bits(cache.vector(text, None, lambda: vector_of(text)), vector_of(text))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(2000)))
    assert 0 < len(cache) < 20

"""Signs of life of vectors in training, and when a run is ended."""

from __future__ import annotations

import logging

import pytest

torch = pytest.importorskip("torch")

from pyserini_llm_sparse.errors import RunError  # noqa: E402
from pyserini_llm_sparse.training.config.fields import RetrieveConfig  # noqa: E402
from pyserini_llm_sparse.training.objectives.health import CollapseDetector, vector_health  # noqa: E402


def run_file(**fields):
    return RetrieveConfig(**{"output": "result", "model": "model", "train": ("train",), **fields})


def healthy(count=8, dimensions=40, seed=0):
    return torch.relu(torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)))


def alike(count=8, dimensions=40):
    return healthy(1, dimensions, seed=3).expand(count, -1) + 0.01 * healthy(count, dimensions)


def dead(count=8, dimensions=40, share=1.0):
    vectors = healthy(count, dimensions)
    vectors[: round(share * count)] = 0
    return vectors


HEALTHY = vector_health(healthy(), healthy(seed=1))


def steps_until_the_end(detector, health, start=0, limit=50):
    """Feed one state until the run is ended. Returns the number of updates and the message."""
    for count in range(1, limit + 1):
        try:
            detector.update(start + count, health)
        except RunError as error:
            return count, str(error)
    return None, ""


def test_active_terms_are_the_mean_number_of_weights():
    queries = torch.tensor([[0, 1.0, 2.0, 0], [0, 0, 0, 0.5]])
    documents = torch.tensor([[1.0, 1.0, 2.0, 3.0], [0, 0, 0, 0]])
    health = vector_health(queries, documents)
    assert health["query_active_terms"] == 1.5
    assert health["document_active_terms"] == 2
    assert (health["dead_queries"], health["dead_documents"]) == (0, 0.5)


def test_the_cosine_is_the_mean_over_pairs_of_living_vectors():
    queries = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    queries[2] = 0
    alive = [row for row in queries if row.any()]
    pairs = [
        torch.nn.functional.cosine_similarity(one, other, dim=0)
        for index, one in enumerate(alive)
        for other in alive[index + 1 :]
    ]
    health = vector_health(queries, queries[:1])
    assert health["query_cosine"] == pytest.approx(float(sum(pairs) / len(pairs)), abs=1e-6)
    assert health["document_cosine"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measuring_leaves_no_gradient_and_gives_plain_numbers(dtype):
    vectors = healthy().to(dtype).requires_grad_()
    health = vector_health(vectors, vectors[:0])
    assert all(type(value) is float for value in health.values())
    assert health["document_active_terms"] == health["dead_documents"] == 0


def test_a_healthy_run_goes_on():
    assert steps_until_the_end(CollapseDetector(run_file()), HEALTHY)[0] is None


@pytest.mark.parametrize("side", ["query", "document"])
def test_dead_vectors_end_the_run_after_some_logged_steps(side):
    detector = CollapseDetector(run_file(document_regulariser_weight=0.03, query_regulariser_weight=0.05))
    detector.update(10, HEALTHY)
    health = vector_health(*(dead(share=0.75), healthy())[:: 1 if side == "query" else -1])
    count, message = steps_until_the_end(detector, health, start=10)
    assert count == 3
    plural, weight = {"query": ("queries", "0.05"), "document": ("documents", "0.03")}[side]
    assert message.startswith(f"step 13: the {side} vectors have died: 75% of them have no term")
    assert f"active terms: queries {health['query_active_terms']:.0f}" in message
    assert f"lower {side}_regulariser_weight ({weight})" in message
    assert f"{plural} " in message
    assert "train adapt" in message
    assert "trainer.learning_rate" in message
    assert "\n" not in message


def test_a_weight_of_zero_cannot_be_lowered():
    _, message = steps_until_the_end(CollapseDetector(run_file()), vector_health(healthy(), dead()))
    assert "regulariser_weight" not in message
    assert "adapt the model first" in message


def test_a_table_of_queries_is_not_told_to_adapt():
    detector = CollapseDetector(run_file(query_encoder="inference-free", query_regulariser_weight=0.1))
    _, message = steps_until_the_end(detector, vector_health(dead(), healthy()))
    assert "train adapt" not in message
    assert "query_term_weights: fixed" in message


def test_vectors_that_are_all_alike_end_the_run():
    detector = CollapseDetector(run_file())
    detector.update(0, HEALTHY)
    count, message = steps_until_the_end(detector, vector_health(healthy(), alike()))
    assert count == 3
    assert message.startswith("step 3: the document vectors are all alike: mean cosine 0.99")
    assert "pooled_span: text" in message


@pytest.mark.parametrize(
    "fields", [{"add_bos": False}, {"pooled_span": "text"}, {"representation": "dense", "dense_pooling": "last-token"}]
)
def test_the_first_token_is_not_blamed_where_it_is_not_pooled(fields):
    _, message = steps_until_the_end(CollapseDetector(run_file(**fields)), vector_health(healthy(), alike()))
    assert "pooled_span" not in message
    assert "adapt the model first" in message


def test_a_model_that_starts_in_the_sink_gets_longer_to_leave_it():
    assert steps_until_the_end(CollapseDetector(run_file()), vector_health(alike(), alike()))[0] == 10


def test_a_bad_batch_now_and_then_does_not_end_the_run():
    detector = CollapseDetector(run_file())
    for step in range(0, 60, 3):
        detector.update(step, HEALTHY)
        detector.update(step + 1, vector_health(dead(), dead()))
        detector.update(step + 2, vector_health(alike(), alike()))


def test_a_crowded_vocabulary_is_a_warning_after_the_ramp_and_only_one(caplog):
    detector = CollapseDetector(run_file(), vocabulary_size=40, ramp_steps=100)
    crowded = vector_health(healthy(), healthy() + 1)
    with caplog.at_level(logging.WARNING, "pyserini_llm_sparse"):
        detector.update(99, crowded)
        assert not caplog.records
        for step in range(100, 120):
            detector.update(step, crowded)
    assert [record.getMessage() for record in caplog.records] == [
        "step 100: documents keep 40 of 40 terms after the ramp, which no index is built for: raise "
        "document_regulariser_weight"
    ]


def test_a_message_tells_of_a_crowded_vocabulary_too():
    detector = CollapseDetector(run_file(), vocabulary_size=40)
    _, message = steps_until_the_end(detector, vector_health(healthy(), alike() + 1))
    assert "documents keep 40 of 40 terms" in message

"""Vector operations equal what plain Python computes term by term."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.vectors import SparseVectors

weights = st.floats(0, 6, width=32) | st.sampled_from([0.0, 0.5, 1.5, 2.5])
dense = st.integers(1, 12).flatmap(
    lambda width: arrays(np.float32, st.tuples(st.integers(0, 6), st.just(width)), elements=weights)
)


def is_clean(vectors: SparseVectors) -> bool:
    matrix = vectors.matrix
    return bool((matrix.data > 0).all()) and all(
        (np.diff(matrix.indices[a:b]) > 0).all() for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    )


@given(dense)
def test_nothing_is_lost_on_the_way_from_dense(values: np.ndarray) -> None:
    vectors = SparseVectors.from_dense(values)
    assert is_clean(vectors) and (vectors.matrix.toarray() == values).all()


@given(dense, st.integers(1, 12))
def test_top_k_keeps_the_heaviest_and_of_equals_the_lowest_id(values: np.ndarray, k: int) -> None:
    kept = SparseVectors.from_dense(values).top_k(k)
    assert is_clean(kept)
    for row, full in zip(kept.matrix.toarray(), values, strict=True):
        expected = sorted((i for i in range(len(full)) if full[i] > 0), key=lambda i: (-full[i], i))[:k]
        assert {i: row[i] for i in np.flatnonzero(row)} == {i: full[i] for i in sorted(expected)}


@given(dense, st.sampled_from([1.0, 51.2, 100.0]), st.integers(1, 300))
def test_impacts_are_rounded_bounded_python_ints(values: np.ndarray, factor: float, maximum: int) -> None:
    vectors = SparseVectors.from_dense(values).impacts(factor, maximum)
    terms = np.array([f"t{i}" for i in range(values.shape[1])], dtype=object)
    assert is_clean(vectors)
    for row, full in zip(vectors.rows(terms), values, strict=True):
        expected = {f"t{i}": min(round(float(w) * factor), maximum) for i, w in enumerate(full)}
        assert row == {term: impact for term, impact in expected.items() if impact}
        assert all(type(impact) is int for impact in row.values())


@given(dense, dense)
def test_scores_are_dot_products(queries: np.ndarray, documents: np.ndarray) -> None:
    width = max(queries.shape[1], documents.shape[1])
    queries, documents = (np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in (queries, documents))
    scores = SparseVectors.from_dense(queries).dot(SparseVectors.from_dense(documents))
    assert np.allclose(scores, queries.astype(np.float64) @ documents.T.astype(np.float64))


@given(dense)
def test_rows_come_back_from_their_terms(values: np.ndarray) -> None:
    vectors = SparseVectors.from_dense(values)
    terms = np.array([f"t{i}" for i in range(values.shape[1])], dtype=object)
    rows = vectors.rows(terms)
    found = [[row.get(term, 0) for term in terms] for row in rows]
    assert np.array_equal(np.array(found, dtype=np.float32).reshape(values.shape), vectors.matrix.toarray())
    assert all(all(row.values()) for row in rows)


def test_parts_are_put_together_in_order() -> None:
    whole = SparseVectors.concatenate(
        [SparseVectors.from_dense([[1, 0]]), SparseVectors.empty(1, 2), SparseVectors.from_dense([[0, 2]])]
    )
    assert whole.matrix.toarray().tolist() == [[1, 0], [0, 0], [0, 2]]
    assert whole[[2, 0]].matrix.toarray().tolist() == [[0, 2], [1, 0]]
    assert whole.active_terms().tolist() == [1, 0, 1]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_weight_that_is_not_finite_never_becomes_an_impact(value: float) -> None:
    vectors = SparseVectors.from_rows([[0, 1]], [[1.0, value]], 2)
    with pytest.raises(DataError, match="not finite"):
        vectors.impacts(100, 255)

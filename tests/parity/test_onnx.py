"""An export gives the vectors of the torch model: any two of family, attention, precision and tied weights or not."""

from __future__ import annotations

import json
from itertools import combinations, product

import numpy as np
import pytest

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from tests.checkpoints import ATTENTIONS, FAMILIES, ROPES, TEXTS
from tests.exports import EVERYTHING, PRECISIONS, exported, torch_encoder

# Weights go up to 2.4. Random weights, three times as large as trained ones, multiply the errors of int8.
TOLERANCE = {"fp32": 5e-5, "fp16": 0.1, "int8": 1.0, "int4": 2.0}
MEAN_TOLERANCE = {"fp32": 1e-6, "fp16": 2e-3, "int8": 0.05, "int4": 0.3}
SIDES = ("query", "document")
# Each two of a family, a precision, an attention and a head meet in one of these.
EXPORTS = [
    (f"{family}_{ATTENTIONS[(row + column) % 3]}_{('tied', 'untied')[(row + column) % 2]}", precision)
    for row, family in enumerate(FAMILIES) for column, precision in enumerate(PRECISIONS)
]  # fmt: skip


def vectors(encoder: SparseEncoder, side: str, **options: int) -> SparseVectors:
    return (encoder.encode_queries if side == "query" else encoder.encode_documents)(TEXTS, **options)


def assert_parity(name: str, precision: str, **overrides: object) -> None:
    reference = torch_encoder(name, **EVERYTHING, **overrides)
    export = SparseEncoder.load(str(exported(name, precision)), **EVERYTHING, **overrides)
    assert export.spec == reference.spec
    for side in SIDES:
        expected, found = vectors(reference, side).matrix.toarray(), vectors(export, side).matrix.toarray()
        assert (expected > 0).any(axis=1).all(), "an empty reference proves nothing"
        assert (expected == 0).any(axis=1).all()
        gap = np.abs(found - expected)
        assert gap.max() <= TOLERANCE[precision]
        assert gap.sum() / expected.sum() <= MEAN_TOLERANCE[precision]


@pytest.mark.parametrize(("name", "precision"), EXPORTS)
def test_every_family_attention_head_and_precision(name: str, precision: str) -> None:
    assert_parity(name, precision)


def test_the_exports_cover_all_pairs() -> None:
    chosen = [(*name.split("_"), precision) for name, precision in EXPORTS]
    values = (FAMILIES, ATTENTIONS, ("tied", "untied"), PRECISIONS)
    for one, other in combinations(range(4), 2):
        assert {(row[one], row[other]) for row in chosen} == {*product(values[one], values[other])}


def test_a_merged_adapter() -> None:
    assert_parity("exportable_adapter", "fp32")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_heads_of_another_size(precision: str) -> None:
    assert_parity("heads_of_24", precision)
    assert json.loads((exported("heads_of_24", precision) / "report.json").read_text())["builder"] == "fused"


@pytest.mark.parametrize("rope", sorted(ROPES))
def test_scaled_rotary_positions(rope: str) -> None:
    assert_parity(f"{rope}_rope", "fp32")
    plain, scaled = torch_encoder("llama_causal_untied"), torch_encoder(f"{rope}_rope")
    assert abs(vectors(plain, "document").matrix - vectors(scaled, "document").matrix).max() > 0.01


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_field_of_the_spec(precision: str) -> None:
    assert_parity("exportable", precision)


def test_fields_outside_the_graph_can_still_be_changed() -> None:
    assert_parity("exportable", "fp32", pooled_span="all", query_encoder="model", document_max_length=20)


@pytest.mark.parametrize(("k", "export"), [(1, EXPORTS[0]), (7, EXPORTS[1]), (10_000, EXPORTS[2]), (7, EXPORTS[3])])
def test_top_k_keeps_the_heaviest_terms(k: int, export: tuple[str, str]) -> None:
    folder = str(exported(*export))
    everything = vectors(SparseEncoder.load(folder), "document")
    found = vectors(SparseEncoder.load(folder, document_top_k=k), "document")
    assert found.active_terms().tolist() == np.minimum(everything.active_terms(), k).tolist()
    np.testing.assert_allclose(found.matrix.toarray(), everything.top_k(k).matrix.toarray(), atol=1e-5)


@pytest.mark.parametrize(("name", "precision"), EXPORTS[-4:])
def test_a_vector_does_not_depend_on_its_neighbours(name: str, precision: str) -> None:
    encoder = SparseEncoder.load(str(exported(name, precision)))
    together = encoder.encode_documents(TEXTS, batch_size=5).matrix.toarray()
    alone = np.concatenate([encoder.encode_documents([text]).matrix.toarray() for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)

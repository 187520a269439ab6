"""The quantisation study prunes, ranks and reports what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples.quantization import settings
from examples.quantization.collection import Collection, ranking
from examples.quantization.lucene import require_same_scores
from examples.quantization.pruning import by_bits, by_mass, pruned
from examples.quantization.report import table, write_report
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.vectors import SparseVectors

WEIGHTS = SparseVectors.from_dense([[0.5, 0.0, 2.0, 1.5], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0, 3, 0, 0]])


def rows(vectors: SparseVectors) -> list[list[float]]:
    return vectors.matrix.toarray().tolist()


# --- pruning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.5, [[0, 0, 2, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 3, 0, 0]]),
        (0.51, [[0, 0, 2, 1.5], [0, 0, 0, 0], [1, 1, 1, 0], [0, 3, 0, 0]]),
        (0.9, [[0.5, 0, 2, 1.5], [0, 0, 0, 0], [1, 1, 1, 1], [0, 3, 0, 0]]),
    ],
)
def test_the_heaviest_terms_are_kept_until_they_have_the_share(share: float, kept: list[list[float]]) -> None:
    assert rows(by_mass(WEIGHTS, share)) == kept


def test_all_of_the_weight_is_all_of_the_terms() -> None:
    random = SparseVectors.from_dense(np.random.default_rng(7).gamma(0.3, size=(40, 60)).astype(np.float32) - 0.2)
    assert rows(by_mass(random, 1.0)) == rows(random)


def test_no_term_fewer_would_have_the_share() -> None:
    random = SparseVectors.from_dense(np.random.default_rng(8).gamma(0.3, size=(40, 60)).astype(np.float32) - 0.2)
    for full, kept in zip(random.matrix.toarray(), by_mass(random, 0.7).matrix.toarray(), strict=True):
        left = kept[kept > 0].astype(np.float64)
        assert left.sum() >= 0.7 * full.astype(np.float64).sum() > left.sum() - left.min()
        assert left.min() >= full[kept == 0].max()


def test_impacts_fill_their_bits() -> None:
    assert rows(by_bits(WEIGHTS, 3)) == [[1, 0, 5, 4], [0, 0, 0, 0], [2, 2, 2, 2], [0, 7, 0, 0]]
    assert by_bits(WEIGHTS, 8).matrix.max() == 255


def test_few_bits_drop_light_terms() -> None:
    assert rows(by_bits(WEIGHTS, 1)) == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_every_method_starts_from_the_same_vectors() -> None:
    points = list(pruned(WEIGHTS, EncodingSpec(attention="causal")))
    assert [(method, value) for method, value, _ in points] == [
        ("all", "all"),
        *(("top-k", most) for most in settings.TOP_K),
        *(("weight mass", share) for share in settings.SHARES),
        *(("impact bits", bits) for bits in settings.BITS),
    ]
    assert rows(points[0][2]) == (100 * WEIGHTS.matrix.toarray()).tolist()
    assert all(impacts.matrix.nnz <= points[0][2].matrix.nnz for _, _, impacts in points)


# --- measuring --------------------------------------------------------------------------------------------------------


def test_equal_scores_are_ranked_by_id_and_strangers_are_not_found() -> None:
    run = ranking(("q",), ("d9", "d10", "d2", "d1"), np.array([[5, 5, 0, 7]]))
    assert sorted(run["q"], key=lambda document: -run["q"][document]) == ["d1", "d10", "d9"]


def test_other_scores_of_lucene_are_noticed() -> None:
    require_same_scores("here", {"q": {"d": 11.999999}}, {"q": {"d": 12}})
    with pytest.raises(SystemExit, match="here: query q, document d"):
        require_same_scores("here", {"q": {"d": 13.0}}, {"q": {"d": 12}})


def test_the_best_ranking_measures_one(tmp_path: Path) -> None:
    source = tmp_path / "tiny"
    (source / "qrels").mkdir(parents=True)
    texts = {"a": "wing and wind", "b": "heart", "c": ""}
    (source / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": name, "title": "the", "text": text}) + "\n" for name, text in texts.items())
    )
    (source / "queries.jsonl").write_text('{"_id": "q", "text": "wings?"}\n{"_id": "unjudged", "text": "rain"}\n')
    (source / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    collection = Collection.load(source, tmp_path / "work")
    assert collection.documents == ("the wing and wind", "the heart", "the")
    assert (collection.query_ids, collection.queries) == (("q",), ("wings?",))
    query = SparseVectors.from_dense([[1, 0]])
    assert collection.searched(query, SparseVectors.from_dense([[2, 0], [1, 1], [0, 1]])) == {"nDCG@10": 1, "R@100": 1}
    assert collection.searched(query, SparseVectors.from_dense([[0, 2], [1, 1], [0, 1]])) == {"nDCG@10": 0, "R@100": 0}


# --- what is planned, kept and reported -------------------------------------------------------------------------------


def test_large_collections_have_few_precisions_unless_others_are_asked_for() -> None:
    assert settings.plan(None, None, False)["cacm"] == settings.ENGINES
    assert settings.plan(None, None, False)["scifact"] == ("torch fp32", "onnx int8")
    assert settings.plan(["scifact"], None, True) == {"scifact": settings.ENGINES}
    assert settings.plan(["cacm"], ["onnx int8"], False) == {"cacm": ("torch fp32", "onnx int8")}


def test_figures_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    settings.require_same_settings(tmp_path, {"threads": 2})
    settings.require_same_settings(tmp_path, {"threads": 2})
    with pytest.raises(SystemExit, match="threads is 4 here, 2 there"):
        settings.require_same_settings(tmp_path, {"threads": 4})


def cell(ndcg: float, kept: float) -> settings.Figures:
    queries = {"nDCG@10": ndcg, "R@100": 0.5, "terms": 9.0, "encode ms": 1.25, "search ms": 2.0}
    return {
        "documents": 3, "documents per second": 10.0, "document terms": 200.0, "top terms kept": kept,
        "index bytes": 4200, "file bytes": 7_300_000, "queries": {"inference-free": queries, "model": queries},
    }  # fmt: skip


def point(method: str, value: int | str) -> settings.Figures:
    measured = {"nDCG@10": 0.25, "R@100": 0.5}
    return {
        "method": method, "value": value, "terms": 16.0, "index bytes per document": 321.0,
        "queries": {"inference-free": measured, "model": measured},
    }  # fmt: skip


PRUNED = {
    "documents": [point("all", "all"), point("top-k", 16), point("weight mass", 90), point("impact bits", 4)],
    "queries": [{"method": "model", "value": 8, "terms": 8.0, "nDCG@10": 0.2, "R@100": 0.5}],
}


def test_a_row_says_what_a_precision_costs_and_what_was_refused() -> None:
    cells = {"torch fp32": cell(0.4, 1.0), "onnx int8": cell(0.39, 0.97), "onnx fp32": {"refused": "no such provider"}}
    lines = table({"cacm": cells}, {"cacm": PRUNED}, {"device": "cpu", "threads": 2}).splitlines()
    assert (
        "| cacm | onnx int8 | model | 0.3900 | -0.0100 | 0.5000 | 97.0% | 200, 9 | 4 | 10.0 | 1.2, 2.0 | 7.3 |" in lines
    )
    assert "- cacm, onnx fp32: no such provider" in lines
    assert "| cacm | weight mass | 90 % | 16 | 321 | 0.2500 | 0.2500 | 0.5000 | 0.5000 |" in lines
    assert "| cacm | model | 8 | 8 | 0.2000 | 0.5000 |" in lines


def test_the_report_is_made_of_what_there_is(tmp_path: Path) -> None:
    work, output = tmp_path / "work", tmp_path / "report"
    settings.write_cell(settings.cell(work, "cacm", "torch fp32"), cell(0.4, 1.0))
    write_report(work, output)
    assert {path.name for path in output.iterdir()} == {"quantization-table.md", "quantization.png"}
    settings.write_cell(settings.cell(work, "mine", "torch fp32"), {"refused": "no memory"})
    settings.write_cell(settings.cell(work, "cacm", settings.PRUNING), PRUNED)
    write_report(work, output)
    assert "- mine, torch fp32: no memory" in (output / "quantization-table.md").read_text()
    assert (output / "quantization-pruning.png").read_bytes().startswith(b"\x89PNG")

"""The quantisation study runs from a collection to its tables, and does nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.quantization.__main__ import main
from examples.quantization.collection import Collection
from examples.quantization.lucene import build_index, require_same_scores, search
from examples.quantization.pruning import by_bits
from examples.quantization.settings import cell, read_cell
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from tests.checkpoints import TEXTS, checkpoint

pytestmark = [pytest.mark.end_to_end, pytest.mark.usefixtures("forked_children")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection whose queries are the beginnings of its documents."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(TEXTS)]
    queries = [{"_id": f"q{number}", "text": " ".join(text.split()[:3])} for number, text in enumerate(TEXTS)]
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    judged = "".join(f"q{number}\td{number}\t1\n" for number in range(len(TEXTS)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def test_a_precision_is_measured_once_and_reported(source: Path, tmp_path: Path) -> None:
    arguments = [
        "--data", str(source.parent), "--work", str(tmp_path), "--collections", "tiny", "--precisions", "torch fp32",
        "--model", str(checkpoint("inference_free")), "--threads", "1", "--skip-pruning",
    ]  # fmt: skip
    main(arguments)
    path = cell(tmp_path, "tiny", "torch fp32")
    figures = read_cell(path)
    assert set(figures["queries"]) == {"inference-free", "model"}
    assert figures["top terms kept"] == 1
    assert figures["index bytes"] > 0
    written = path.stat().st_mtime_ns
    main(arguments)
    assert path.stat().st_mtime_ns == written
    assert "| tiny | torch fp32 | model |" in (tmp_path / "quantization-table.md").read_text()


def test_scores_of_few_bits_are_lucenes(source: Path, tmp_path: Path) -> None:
    collection = Collection.load(source, tmp_path / "tiny")
    weights = SparseVectors.from_dense([[0.3, 2.0, 0.0], [1.0, 0.1, 0.7], [0.0, 0.4, 0.0], [0.2] * 3, [1.5, 0, 1.5]])
    impacts = by_bits(weights, 4)
    names = [{"wing": row[0], "wind": row[1], "rain": row[2]} for row in impacts.matrix.toarray().tolist()]
    rows = [{term: impact for term, impact in row.items() if impact} for row in names]
    assert build_index(tmp_path, collection.document_ids, rows, None, 1) > 0
    run = search(tmp_path, collection, rows, 1)
    scores = impacts.dot(impacts)
    exact = {
        query: dict(zip(collection.document_ids, row.tolist(), strict=True))
        for query, row in zip(collection.query_ids, scores, strict=True)
    }
    require_same_scores("tiny", run, exact)
    assert {query: set(hits) for query, hits in run.items()} == {
        query: {document for document, score in row.items() if score} for query, row in exact.items()
    }
    assert collection.measured(run) == collection.searched(impacts, impacts)

"""A masked language model can be exported: torch's exporter builds the graph, whose vectors are those of torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.onnx.export.exporter import export_model
from tests import masked_checkpoints  # noqa: F401
from tests.checkpoints import TEXTS, checkpoint
from tests.exports import exported, torch_encoder
from tests.parity.test_onnx import assert_parity

pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'pyserini-llm-sparse[onnx]'")

EXPORTS = [
    ("bert_splade", "fp32"), ("distilbert_splade", "fp32"), ("roberta_splade", "int8"),
    ("modernbert_splade", "fp32"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "precision"), EXPORTS)
def test_its_vectors_are_those_of_torch(name: str, precision: str) -> None:
    assert_parity(name, precision)
    assert json.loads((exported(name, precision) / "report.json").read_text())["builder"] == "torch"


def test_a_text_longer_than_any_that_was_traced() -> None:
    """RoBERTa's table of positions, which is longer than its texts can be, is used up to its end."""
    text, name = " ".join(TEXTS * 20), "roberta_splade"
    export = SparseEncoder.load(str(exported(name, "int8")))
    reference = torch_encoder(name)
    assert len(export.tokenization.token_ids([text], "document")[0].ids) == 256
    found, expected = (encoder.encode_documents([text]).matrix.toarray() for encoder in (export, reference))
    cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine > 0.98


def test_optimum_is_refused(tmp_path: Path) -> None:
    folder = str(checkpoint("bert_splade"))
    with pytest.raises(DataError, match=r"BertForMaskedLM is a masked language model.*--builder auto"):
        export_model(folder, tmp_path / "out", builder="optimum", optimum=tmp_path)
    assert not (tmp_path / "out").exists()

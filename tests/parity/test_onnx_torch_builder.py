"""Torch's exporter builds what our own graph refuses, with the vectors of the torch model, and says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import DataError, PrerequisiteError, UsageError
from pyserini_llm_sparse.modelling.checkpoint import load_checkpoint
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.torch_engine import TorchEngine, TorchLoader
from pyserini_llm_sparse.onnx.export.exporter import export_checkpoint, export_model
from tests import other_families  # noqa: F401
from tests.checkpoints import EXPORTABLE, TEXTS, checkpoint, native
from tests.exports import EVERYTHING, exported, torch_encoder
from tests.parity.test_onnx import assert_parity

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'pyserini-llm-sparse[onnx]'")

# Each takes seconds: torch traces the model. A Llama is traced below, where its fused graph gives way.
EXPORTS = [("gemma2", "fp32"), ("gpt2", "int8"), ("gpt2", "fp32"), ("phi", "int8"), ("phi3", "fp16")]


def report(name: str, precision: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((exported(name, precision) / "report.json").read_text())
    return found


def initializers(name: str, precision: str) -> list[Any]:
    return list(onnx.load(exported(name, precision) / "model.onnx", load_external_data=False).graph.initializer)


def place(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


@pytest.mark.parametrize(("name", "precision"), EXPORTS)
def test_its_vectors_are_those_of_torch(name: str, precision: str) -> None:
    assert_parity(name, precision)
    found = report(name, precision)
    assert found["builder"] == "torch" and found["versions"]["onnxscript"]
    if precision == "int8":
        assert all(chosen.startswith("int8") for chosen in found["formats"].values())


@pytest.mark.parametrize(("name", "precision"), EXPORTS[:2])
def test_a_vector_does_not_depend_on_its_neighbours(name: str, precision: str) -> None:
    encoder = SparseEncoder.load(str(exported(name, precision)), **EVERYTHING)
    together = encoder.encode_documents(TEXTS, batch_size=5).matrix.toarray()
    alone = np.concatenate([encoder.encode_documents([text]).matrix.toarray() for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_a_text_of_one_token_and_one_longer_than_any_that_was_traced(name: str) -> None:
    export = SparseEncoder.load(str(exported(name)), query_max_length=200, **EVERYTHING)
    reference = torch_encoder(name, query_max_length=200, **EVERYTHING)
    for text in ("a", "The wind lifts the wing of a small plane. " * 20):
        expected, found = (encoder.encode_queries([text]).matrix.toarray() for encoder in (reference, export))
        np.testing.assert_allclose(found, expected, atol=5e-5, rtol=0)
    assert len(reference.tokenization.token_ids([text], "query")[0].ids) >= 200


def test_a_tied_embedding_is_stored_once() -> None:
    tensors = initializers("gemma2", "fp32")
    embedding, first_block = (next(t for t in tensors if t.name == name) for name in ("embedding", "head"))
    assert place(embedding)["offset"] == place(first_block)["offset"]
    assert len(embedding.dims) == 2 and not any(t.name.endswith("embed_tokens") for t in tensors)


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_the_body_s_products_are_quantised(name: str) -> None:
    body = torch_encoder(name).engine.backbone.model.base_model  # type: ignore[attr-defined]
    numbers = sum(own.numel() for path, own in body.named_parameters() if path.startswith(("layers.", "h.")))
    kept = [tensor for tensor in initializers(name, "int8") if tensor.data_type == onnx.TensorProto.FLOAT]
    floats = sum(
        int(place(tensor).get("length", 0)) for tensor in kept if ".layers." in tensor.name or ".h." in tensor.name
    )
    assert floats < 0.2 * 4 * numbers


def test_no_path_of_this_machine_is_in_the_graph(root: Path) -> None:
    content = (exported("gemma2") / "model.onnx").read_bytes()
    assert str(root).encode() not in content and b"site-packages" not in content


def test_the_fused_builder_refuses_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--model", str(checkpoint("small_heads")), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--builder", "fused"]) == 5
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "activation is gelu, not silu" in last and "--builder torch" in last
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="builder optimal: unknown"):
        export_model(str(checkpoint("small_heads")), tmp_path / "out", builder="optimal")  # type: ignore[arg-type]


class OtherCode(TorchLoader):
    """Loads a model whose code is its own: it looks like a Llama and computes something else."""

    def load(self) -> TorchEngine:
        engine = super().load()
        network = engine.backbone.model.base_model.layers[0].mlp
        network.register_forward_hook(lambda module, given, states: torch.tanh(states))
        return engine


def test_a_fused_graph_that_differs_from_torch_gives_way_and_says_so(tmp_path: Path) -> None:
    native(tmp_path / "model", settings={**EXPORTABLE, "num_hidden_layers": 1}, attention="causal")
    source = OtherCode(load_checkpoint(parse_encoder_name(str(tmp_path / "model"))), "cpu", "float32")
    notes: list[str] = []
    made = export_checkpoint(source, tmp_path / "out", precision="fp32", model="own", note=notes.append)
    assert made.builder == "torch" and made.measured["weight_error"] < 5e-5
    said = [line for line in notes if line.startswith("builder torch: ")]
    assert len(said) == 1 and "the fused graph differs from torch: weight error" in said[0]


def test_what_neither_can_build_is_refused_with_both_reasons(tmp_path: Path) -> None:
    notes: list[str] = []
    with pytest.raises(
        DataError, match=rf"\(dynamic\) depend.*exporter fails \(torch {torch.__version__[:4]}"
    ) as caught:
        export_model(str(checkpoint("dynamic_rope")), tmp_path / "out", note=notes.append)
    assert "onnxscript" in str(caught.value) and "\n" not in str(caught.value)
    assert len(notes) == 1 and "(dynamic) depend" in notes[0] and "torch's exporter builds the graph" in notes[0]


def test_a_missing_onnxscript_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as Python marks what cannot be imported
    with pytest.raises(PrerequisiteError, match=r"gelu.*onnxscript: .*pyserini-llm-sparse\[onnx\]"):
        export_model(str(checkpoint("small_heads")), tmp_path / "out")

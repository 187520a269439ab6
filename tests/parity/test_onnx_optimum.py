"""What optimum's exporter makes becomes an export like any other, with the vectors of the torch model.

Where optimum is not installed, its graphs are imitated with the exporter that it uses, `torch.onnx.export` without
dynamo: the same inputs, outputs and names.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import (
    DataError,
    PrerequisiteError,
    ResourceError,
    RunError,
    SpecMismatchError,
    UsageError,
)
from pyserini_llm_sparse.onnx.export.exporter import export_model
from pyserini_llm_sparse.onnx.runtime.precision import Precision
from tests.checkpoints import ATTENTIONS, FAMILIES, TEXTS, checkpoint, native
from tests.exports import EVERYTHING, exported, torch_encoder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'pyserini-llm-sparse[onnx]'")

NAME = "llama_causal_untied"


def optimum() -> Any:
    return pytest.importorskip(
        "optimum.exporters.onnx",
        reason="optimum is not installed: it needs transformers 4: pip install 'pyserini-llm-sparse[optimum]'",
        exc_type=ImportError,
    )


class FromMask(torch.nn.Module):
    """A model on the inputs that optimum's graphs have.

    The mask of four dimensions is made here: transformers' own way to it cannot be traced, and optimum replaces it.
    """

    def __init__(self, name: str, output: str) -> None:
        super().__init__()
        self.model = torch_encoder(name).engine.backbone.model
        self.output = output

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1])
        seen = attention_mask[:, None, None, :].bool() & (places[None, :] <= places[:, None])
        added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        body: Any = self.model.base_model
        states = body(input_ids=input_ids, attention_mask=added, position_ids=position_ids, use_cache=False)[0]
        return self.model.get_output_embeddings()(states) if self.output == "logits" else states


def imitated(folder: Path, name: str, output: str = "last_hidden_state", **options: Any) -> Path:
    """Write what optimum would write for a checkpoint that attends to earlier tokens."""
    folder.mkdir()
    inputs = ["input_ids", "attention_mask", "position_ids"]
    ids = torch.arange(32).view(2, 16)
    axes = {value: {0: "batch_size", 1: "sequence_length"} for value in [*inputs, output]}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            FromMask(name, output).eval(), (ids, torch.ones_like(ids), torch.arange(16).repeat(2, 1)),
            str(folder / "model.onnx"), input_names=inputs, output_names=[output], dynamic_axes=axes,
            **{"opset_version": 18, "dynamo": False, **options},
        )  # fmt: skip
    return folder


@cache
def graph_of(name: str, output: str) -> Path:
    return imitated(exported(name).parent / f"{name}-{output}", name, output)


@cache
def taken_over(name: str, output: str, precision: Precision) -> Path:
    folder = exported(name).parent / f"{name}-{output}-{precision}-export"
    report = export_model(str(checkpoint(name)), folder, precision=precision, optimum=graph_of(name, output))
    assert report.builder == "optimum"
    return folder


def changed(folder: Path, change: Any) -> Path:
    """Write a copy of a small graph, with its weights inside, after a change."""
    model = onnx.load(graph_of(NAME, "last_hidden_state") / "model.onnx")
    change(model)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return folder


def largest_difference(first: SparseEncoder, second: SparseEncoder) -> float:
    return float(abs(first.encode_documents(TEXTS).matrix - second.encode_documents(TEXTS).matrix).max())


@pytest.mark.parametrize(
    ("name", "output"),
    [(NAME, "last_hidden_state"), (NAME, "logits"), ("qwen3_echo_tied", "last_hidden_state"),
     ("qwen3_echo_tied", "logits")],
)  # fmt: skip
def test_a_graph_that_optimum_wrote_elsewhere_becomes_an_export(name: str, output: str) -> None:
    export = SparseEncoder.load(str(taken_over(name, output, "fp32")), **EVERYTHING)
    assert largest_difference(torch_encoder(name, **EVERYTHING), export) <= 5e-5
    assert largest_difference(SparseEncoder.load(str(exported(name)), **EVERYTHING), export) <= 5e-5


def test_its_products_are_quantised_as_ours_are() -> None:
    folder = taken_over("qwen3_echo_tied", "last_hidden_state", "int8")
    operators = [node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node]
    assert operators.count("MatMulIntegerToFloat") >= 14  # seven of each layer
    export = SparseEncoder.load(str(folder), **EVERYTHING)
    assert 0 < largest_difference(torch_encoder("qwen3_echo_tied", **EVERYTHING), export) < 0.5


def test_a_vector_does_not_depend_on_its_neighbours() -> None:
    export = SparseEncoder.load(str(taken_over(NAME, "last_hidden_state", "fp32")), **EVERYTHING)
    together = export.encode_documents(TEXTS, batch_size=5).matrix.toarray()
    alone = np.concatenate([export.encode_documents([text]).matrix.toarray() for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


def test_weights_in_files_beside_the_graph_are_read(tmp_path: Path) -> None:
    model = onnx.load(graph_of(NAME, "last_hidden_state") / "model.onnx")
    (tmp_path / "graph").mkdir()
    onnx.save(model, tmp_path / "graph" / "model.onnx", save_as_external_data=True, location="model.onnx_data",
              size_threshold=0)  # fmt: skip
    export_model(str(checkpoint(NAME)), tmp_path / "out", optimum=tmp_path / "graph")
    export = SparseEncoder.load(str(tmp_path / "out"), **EVERYTHING)
    assert largest_difference(torch_encoder(NAME, **EVERYTHING), export) <= 5e-5


def test_the_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = graph_of(NAME, "last_hidden_state"), tmp_path / "out"
    command = ["export", "--model", str(checkpoint(NAME)), "--output", str(output), "--optimum", str(source)]
    assert main(command) == 0
    assert json.loads((output / "report.json").read_text())["builder"] == "optimum"
    assert main([*command, "--overwrite", "--builder", "fused"]) == 2
    assert "leave one of the two out" in capsys.readouterr().err


def test_a_graph_that_attends_to_earlier_tokens_only_is_not_a_bidirectional_model_s(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="optimum-cli ignores attention in both directions"):
        export_model(f"{checkpoint(NAME)},attention=bidirectional", tmp_path / "out", optimum=graph_of(NAME, "logits"))
    assert not (tmp_path / "out").exists()


def test_another_model_s_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecMismatchError, match="the graph of another model"):
        export_model(str(checkpoint("qwen2_causal_untied")), tmp_path / "out", optimum=graph_of(NAME, "logits"))


def with_cache(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("past_key_values.0.key", 1, ["batch", 2, "past", 16]))


def with_token_types(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("token_type_ids", 7, ["batch", "sequence"]))


def optimised(model: Any) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    next(node for node in model.graph.node if node.op_type == "MatMul").domain = "com.microsoft"


def old(model: Any) -> None:
    model.opset_import[0].version = 14


def in_half(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def pooled(model: Any) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "sentence_embedding"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_cache, "past keys and values, .*--task feature-extraction"),
        (with_token_types, "takes token_type_ids: "),
        (optimised, r"operators of com\.microsoft: .*without --optimize"),
        (old, "version 14, not 18 to 21; .*--opset 18"),
        (in_half, "--dtype fp32"),
        (pooled, "no hidden states among sentence_embedding"),
    ],
)
def test_a_graph_for_another_purpose_is_refused_with_a_remedy(change: Any, message: str, tmp_path: Path) -> None:
    graph = changed(tmp_path / "graph", change)
    with pytest.raises(DataError, match=message) as caught:
        export_model(str(checkpoint(NAME)), tmp_path / "out", optimum=graph)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_graph_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="optimum-cli export onnx --model MODEL --task feature-extraction"):
        export_model(str(checkpoint(NAME)), tmp_path / "out", optimum=tmp_path / "nowhere")
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"model\.onnx: .*export it again") as caught:
        export_model(str(checkpoint(NAME)), tmp_path / "out", optimum=tmp_path)
    assert "\n" not in str(caught.value)


def test_without_optimum_its_builder_says_where_it_can_be_had(tmp_path: Path) -> None:
    try:
        import optimum.exporters.onnx  # noqa: F401
    except ImportError:
        with pytest.raises(PrerequisiteError, match=r"transformers 4, .*\[optimum\].*--optimum FOLDER"):
            export_model(str(checkpoint(NAME)), tmp_path / "out", builder="optimum")
    else:
        with pytest.raises(UsageError, match="unknown; choose auto, fused, torch or optimum"):
            export_model(str(checkpoint(NAME)), tmp_path / "out", builder="other")  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_optimum_exports_every_family_and_attention(family: str, attention: str, tmp_path: Path) -> None:
    optimum()
    name = f"{family}_{attention}_{'tied' if family == 'qwen3' else 'untied'}"
    report = export_model(str(checkpoint(name)), tmp_path / "out", builder="optimum")
    assert report.builder == "optimum"
    export = SparseEncoder.load(str(tmp_path / "out"), **EVERYTHING)
    assert largest_difference(torch_encoder(name, **EVERYTHING), export) <= 5e-5
    assert largest_difference(SparseEncoder.load(str(exported(name)), **EVERYTHING), export) <= 5e-5


@pytest.mark.parametrize("task", ["feature-extraction", "text-generation"])
def test_what_its_command_writes_is_taken_over(task: str, tmp_path: Path) -> None:
    optimum()
    from optimum.exporters.onnx import main_export

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main_export(str(checkpoint(NAME)), tmp_path / "graph", task=task, do_validation=False)
    export_model(str(checkpoint(NAME)), tmp_path / "out", optimum=tmp_path / "graph")
    export = SparseEncoder.load(str(tmp_path / "out"), **EVERYTHING)
    assert largest_difference(torch_encoder(NAME, **EVERYTHING), export) <= 5e-5


def test_optimum_exports_adapters_and_every_field_of_the_spec(tmp_path: Path) -> None:
    optimum()
    for name in ("exportable_adapter", "exportable", "llama3_rope", "yarn_rope"):
        export_model(str(checkpoint(name)), tmp_path / name, builder="optimum")
        export = SparseEncoder.load(str(tmp_path / name), **EVERYTHING)
        assert largest_difference(torch_encoder(name, **EVERYTHING), export) <= 5e-5


def test_rotary_positions_that_depend_on_the_length_are_refused(tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    native(tmp_path / "model", settings={"hidden_size": 64, "rope_parameters": scaling}, attention="causal")
    with pytest.raises(DataError, match=r"rotary positions \(dynamic\)"):
        export_model(str(tmp_path / "model"), tmp_path / "out", optimum=graph_of(NAME, "logits"))

"""Optimum's exporter as a third builder of a body: run here where it is installed, or its file read anywhere.

optimum-onnx needs transformers 4, so that it can be in another environment: ``optimum-cli export onnx --model MODEL
--task feature-extraction FOLDER``. Its graph takes a mask and positions, which are computed here from lengths; what
comes after the last hidden states is left out, and the rest becomes part of our graph, as torch's does.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from pyserini_llm_sparse.errors import (
    DataError,
    LlmSparseError,
    PrerequisiteError,
    ResourceError,
    SpecMismatchError,
    one_line,
)
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.onnx.graph.body import Builder
from pyserini_llm_sparse.onnx.graph.decoder import most_positions, rotation_by_length
from pyserini_llm_sparse.onnx.graph.torch_builder import TracedBody, silent, simplify
from pyserini_llm_sparse.onnx.graph.traced import require_simple
from pyserini_llm_sparse.onnx.graph.writer import OPSET

TASK = "feature-extraction"
FILE = "model.onnx"
LEAST_OPSET = 18  # the operators of earlier ones take other inputs than those of `OPSET`
COMPUTED_INPUTS = ("attention_mask", "position_ids")
_ANONYMOUS = "onnx::"  # what the names of weights begin with that the exporter has transposed


class OptimumBody(TracedBody):
    """A body that optimum's exporter made; see `body.Body`."""

    builder: Builder = "optimum"


def export_body(backbone: Backbone, spec: EncodingSpec) -> OptimumBody:
    """Export a model without its output layer with optimum.

    Args:
        backbone: The model, in float32 on the CPU.
        spec: Says how long texts are.

    Raises:
        PrerequisiteError: optimum is not installed.
        DataError: It cannot export the model, or its graph cannot be taken over.
    """
    folder = tempfile.mkdtemp(prefix="pyserini-llm-sparse-optimum-")
    try:
        _write_graph(backbone, folder)
        body = read_body(folder, backbone, spec)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # Large weights are read from their file when our graph is written.
    weakref.finalize(body, shutil.rmtree, folder, ignore_errors=True)
    return body


def _write_graph(backbone: Backbone, folder: str) -> None:
    """Let optimum write what it makes of a model into a folder."""
    with silent():
        try:
            from optimum.exporters.onnx import onnx_export_from_model
        except ImportError as error:
            raise PrerequisiteError(
                f"optimum: cannot be imported: {one_line(error)}: its exporter needs transformers 4, as "
                "Pyserini 1.6 allows: pip install 'pyserini-llm-sparse[optimum]'; or export elsewhere with "
                f"'optimum-cli export onnx --model MODEL --task {TASK} FOLDER' and name that with --optimum FOLDER"
            ) from error
        try:
            with torch.no_grad():
                onnx_export_from_model(
                    backbone.model.base_model, folder, task=TASK, do_validation=False, preprocessors=[]
                )
        except Exception as error:  # of several libraries, whose exceptions have no common base
            raise DataError(
                f"{type(backbone.model).__name__}: optimum's exporter fails (optimum-onnx "
                f"{metadata.version('optimum-onnx')}): {one_line(error)}; export with --builder auto"
            ) from error


def read_body(path: str | Path, backbone: Backbone, spec: EncodingSpec) -> OptimumBody:
    """Read what optimum's exporter wrote for a model.

    Args:
        path: The folder, or the graph's file in it.
        backbone: The model, in float32 on the CPU.
        spec: Says how long texts are.

    Raises:
        ResourceError: There is no graph.
        DataError: It cannot be read or taken over.
        SpecMismatchError: It is that of another model.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ResourceError(
            f"{file}: not there; make it with optimum-cli export onnx --model MODEL --task {TASK} {file.parent}"
        )
    if rotation := rotation_by_length(backbone):  # what was traced holds for the length of optimum's sample only
        raise DataError(
            f"{file}: rotary positions ({rotation}) that depend on the length of a text cannot be exported by optimum; "
            "export with --builder auto"
        )
    try:
        model = onnx_ir.load(file)
        with silent():
            _require_readable(model.graph, file)
            _on_lengths(model.graph, file)
            _name_and_map_weights(model.graph)
            _require_own(model.graph, backbone, file)
            RemoveUnusedNodesPass()(model)
            simplify(model)
    except LlmSparseError:
        raise
    except Exception as error:  # protobuf's and onnx_ir's have no common base
        raise DataError(f"{file}: cannot be read: {one_line(error)}; export it again with --task {TASK}") from error
    require_simple(model.graph, str(file))
    return OptimumBody(backbone, model.graph, most_positions(backbone, spec))


def _require_readable(graph: onnx_ir.Graph, file: Path) -> None:
    """Refuse what was exported for another purpose than to be read here."""
    again = f"export it again with --task {TASK}"
    version = graph.opset_imports.get("", 0)
    if not LEAST_OPSET <= version <= OPSET:
        raise DataError(f"{file}: operators of version {version}, not {LEAST_OPSET} to {OPSET}; {again} --opset 18")
    others = sorted({node.domain for node in graph if node.domain})
    if others:
        raise DataError(f"{file}: operators of {', '.join(others)}: it was optimised; {again}, without --optimize")
    inputs = [str(value.name) for value in graph.inputs]
    if any(name.startswith("past_key_values") for name in inputs):
        raise DataError(f"{file}: takes past keys and values, as for generating text; {again}")
    unknown = sorted(set(inputs) - {"input_ids", *COMPUTED_INPUTS})
    if unknown or "input_ids" not in inputs:
        raise DataError(f"{file}: takes {', '.join(unknown or inputs)}: not the graph of a causal model; {again}")


def _on_lengths(graph: onnx_ir.Graph, file: Path) -> None:
    """Replace a graph's mask and positions by `lengths`, and its outputs by the last hidden states."""
    given = {str(value.name): value for value in graph.inputs}
    input_ids = given["input_ids"]
    states = _last_hidden_states(graph, file)
    if input_ids.dtype != onnx_ir.DataType.INT64 or graph.outputs[0].dtype != onnx_ir.DataType.FLOAT:
        raise DataError(
            f"{file}: ids of type {input_ids.dtype}, and states of {graph.outputs[0].dtype}: INT64 and FLOAT are read; "
            "export it again with --dtype fp32"
        )
    lengths = onnx_ir.Value(
        name="lengths",
        type=onnx_ir.TensorType(onnx_ir.DataType.INT32),
        shape=onnx_ir.Shape([input_ids.shape[0] if input_ids.shape else "batch"]),
    )
    tape = onnx_ir.tape.Tape()

    def constant(values: Any) -> onnx_ir.Value:
        return tape.initializer(onnx_ir.tensor(np.asarray(values, np.int64), name=f"constant_{len(tape.initializers)}"))

    shape = tape.op("Shape", [input_ids])
    length = tape.op("Gather", [shape, constant(1)])
    places = tape.op("Unsqueeze", [tape.op("Range", [constant(0), length, constant(1)]), constant([0])])
    ends = tape.op("Unsqueeze", [tape.op("Cast", [lengths], {"to": onnx_ir.DataType.INT64}), constant([1])])
    mask = tape.op("Cast", [tape.op("Less", [places, ends])], {"to": onnx_ir.DataType.INT64})
    computed = {"attention_mask": mask, "position_ids": tape.op("Expand", [places, shape])}
    for name in COMPUTED_INPUTS:
        if name in given:
            onnx_ir.convenience.replace_all_uses_with(given[name], computed[name])
    graph.insert_before(graph[0], tape.nodes)
    for value in tape.initializers:
        value.name = f"of_lengths.{value.name}"
        graph.register_initializer(value)
    graph.inputs[:] = [input_ids, lengths]
    graph.outputs[:] = [states]


def _last_hidden_states(graph: onnx_ir.Graph, file: Path) -> onnx_ir.Value:
    """Return the last hidden states: an output, or what the product that makes the logits takes."""
    outputs = {str(value.name): value for value in graph.outputs}
    if "last_hidden_state" in outputs:
        return outputs["last_hidden_state"]
    product = outputs["logits"].producer() if "logits" in outputs else None
    if product is not None and product.op_type == "MatMul" and product.inputs[0] is not None:
        return product.inputs[0]
    raise DataError(
        f"{file}: no hidden states among {', '.join(outputs)}, and no product that makes logits; "
        f"export it again with --task {TASK}"
    )


def _name_and_map_weights(graph: onnx_ir.Graph) -> None:
    """Name weights by the module that they belong to, and hold them as tensors over the file's own memory."""
    for node in graph:
        for value in node.inputs:
            if value is None or not value.is_initializer() or not str(value.name).startswith(_ANONYMOUS):
                continue
            module = str(node.name).strip("/").replace("/", ".").rpartition(".")[0]
            if module and f"{module}.weight" not in graph.initializers:
                value.name = f"{module}.weight"
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == onnx_ir.DataType.FLOAT:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the memory cannot be written to: nobody does
                tensor = torch.from_numpy(value.const_value.numpy())
            value.const_value = TorchTensor(tensor, name=value.name)


def _require_own(graph: onnx_ir.Graph, backbone: Backbone, file: Path) -> None:
    """Compare the embedding with the model's, and share its memory.

    Everything else is compared by the vectors: this says sooner and in plainer words what is most likely wrong.
    """
    own: Tensor = backbone.model.get_input_embeddings().weight.detach()  # type: ignore[assignment, operator]
    for user in graph.inputs[0].uses():
        table = user.node.inputs[0]
        if user.node.op_type != "Gather" or user.idx != 1 or table is None or not table.is_initializer():
            continue
        found = table.const_value.raw if isinstance(table.const_value, TorchTensor) else None
        if not isinstance(found, Tensor) or found.shape != own.shape or not torch.equal(found, own):
            raise SpecMismatchError(
                f"{file}: its embedding is not that of {type(backbone.model).__name__} as it was loaded: it is the "
                "graph of another model, or of other weights; export the same model with optimum"
            )
        table.const_value = TorchTensor(own, name=table.name)

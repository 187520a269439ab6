"""A writer of ONNX graphs: nodes in memory, weights straight into the file beside it, each once.

Protocol buffers end at 2 GB, so all weights of some size are external data (ONNX, ``docs/ExternalData.md``): the size
of a model then makes no difference, and no more than one tensor is held in memory on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
ALIGNMENT = 4096  # of tensors in the weights file, so that pages can be mapped
EXTERNAL_BYTES = 1024  # smaller constants stay in the graph, where ONNX Runtime can fold them


@dataclass(frozen=True)
class _Written:
    """A tensor in the weights file whose bytes others may share."""

    array: NDArray[Any]  # kept, so that its address stays its own
    offset: int


class GraphWriter:
    """Collects a graph.

    Values are named by strings, as in ONNX: what `node` and `weight` return is what other nodes take.
    """

    def __init__(self, weights: IO[bytes], location: str) -> None:
        """Start a graph.

        Args:
            weights: The open file that weights are written to.
            location: Its name, relative to the graph's file.
        """
        self._weights = weights
        self._location = location
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._shared: list[_Written] = []
        self._names: dict[str, int] = {}

    def node(
        self, operator: str, inputs: Sequence[str], outputs: int = 1, *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its outputs.

        Args:
            operator: Its type.
            inputs: Names of values; an empty one leaves out an optional input.
            outputs: Number of outputs.
            domain: Whose operator it is, by default ONNX's.
            **attributes: The operator's attributes.
        """
        name = self._fresh(operator)
        made = _outputs(name, outputs)
        self._nodes.append(helper.make_node(operator, list(inputs), made, name=name, domain=domain, **attributes))
        return made

    def copied(self, node: onnx.NodeProto, inputs: Sequence[str]) -> list[str]:
        """Add a node of another graph and return the names of its outputs.

        Args:
            node: What is copied; all but the names of its values, and what its maker noted beside them.
            inputs: The values in this graph that it takes.
        """
        name = self._fresh(node.op_type)
        made = _outputs(name, len(node.output))
        copy = onnx.NodeProto(name=name, op_type=node.op_type, domain=node.domain, attribute=node.attribute)
        copy.input.extend(inputs)
        # An output that is left out has no name.
        copy.output.extend(own if its else "" for own, its in zip(made, node.output, strict=True))
        self._nodes.append(copy)
        return made

    def value(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        return self.node(operator, inputs, domain=domain, **attributes)[0]

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Add a small constant to the graph itself and return its name."""
        name = self._fresh("constant")
        self._constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def weight(self, name: str, array: NDArray[Any], *, shared: bool = False) -> str:
        """Write a tensor and return its name.

        Args:
            name: What it is, for readers of the graph.
            array: Its values; rows of an array that was written as shared are not written again.
            shared: Whether parts of it may come again, as the embedding does in a tied output layer. The array must
                not change until the graph is complete.
        """
        if array.nbytes < EXTERNAL_BYTES:
            return self.constant(array)
        name = self._fresh(name)
        offset = self._offset_of(array)
        if offset is None:
            self._weights.write(bytes(-self._weights.tell() % ALIGNMENT))
            offset = self._weights.tell()
            self._weights.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if shared:
                self._shared.append(_Written(array, offset))
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (("location", self._location), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._constants.append(tensor)
        return name

    def name(self, value: str, wanted: str) -> None:
        """Give a value the name that an output of the graph has."""
        self._nodes.append(helper.make_node("Identity", [value], [wanted], name=self._fresh("output")))

    def save(
        self, path: Path, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], made_by: str
    ) -> None:
        """Write the graph to a file.

        Args:
            path: The file.
            inputs: Name, type and shape of each input.
            outputs: The same of each output.
            made_by: Name of the program, which ONNX keeps with the graph.
        """
        graph = helper.make_graph(self._nodes, "sparse_encoder", list(inputs), list(outputs), self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=made_by)
        path.write_bytes(model.SerializeToString())

    def _fresh(self, name: str) -> str:
        """Return a name that no other value has."""
        number = self._names.get(name, 0)
        self._names[name] = number + 1
        return f"{name}_{number}" if number else name

    def _offset_of(self, array: NDArray[Any]) -> int | None:
        """Return where in the weights file an array's bytes are already, None if they are not."""
        start = array.ctypes.data
        for written in self._shared:
            first = written.array.ctypes.data
            inside = first <= start and start + array.nbytes <= first + written.array.nbytes
            if inside and array.flags.c_contiguous and array.dtype == written.array.dtype:
                return written.offset + start - first
        return None


def _outputs(name: str, number: int) -> list[str]:
    """Return the names of a node's outputs."""
    return [name] if number == 1 else [f"{name}:{place}" for place in range(number)]

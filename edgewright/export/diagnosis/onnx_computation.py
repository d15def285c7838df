"""A `.onnx` file operator by operator: each node is a model of its own, run by ONNX Runtime."""

import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgewright.errors import ConversionError
from edgewright.export import onnx_file
from edgewright.export.diagnosis.computation import (
    Computation,
    Operator,
    Quantization,
    moving,
    narrowest,
    require_inputs,
)
from edgewright.export.runs import Arrays

__all__ = ["OnnxComputation", "SingleNodes"]

_SHAPES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Expand", "QuantizeLinear", "DequantizeLinear"}
_ORDERS = {"Transpose"}
_SEVERITY_FATAL = 4
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_DTYPES = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64", onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT4: "int4", onnx.TensorProto.UINT4: "uint4",
}  # fmt: skip


class SingleNodes:
    """The nodes of a model, each computed by itself; constants are known from the start."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.constants: dict[str, Any] = {}
        self.stored_as: dict[str, str] = {t.name: _DTYPES.get(t.data_type, "") for t in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        for node in _in_order(model.graph):
            if any(name not in self._initializers and name not in self.constants for name in _read_by(node)):
                self.nodes.append(node)
            else:
                # So that weights behind a DequantizeLinear are constants as well.
                self.constants.update(self.computed(node, self.constants))
                # In float32, but no more exact than the 8 bits that they were stored in.
                self.stored_as.update(dict.fromkeys(node.output, self._narrowest_of(node)))

    def reads(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """The values that a node reads, constants left out."""
        names = dict.fromkeys(_read_by(node))
        return tuple(n for n in names if n not in self._initializers and n not in self.constants)

    def constant(self, name: str) -> np.ndarray | None:
        """A constant by its name."""
        if name in self._initializers:
            return onnx.numpy_helper.to_array(self._initializers[name])
        value = self.constants.get(name)
        return value if isinstance(value, np.ndarray) else None

    def alone(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> onnx.ModelProto:
        """A model of that node alone, its inputs of the values' types and of any shape."""
        # A node may read a value twice, which is one input of the model.
        names = list(dict.fromkeys(_read_by(node)))
        held = [self._initializers[n] for n in names if n in self._initializers]
        held += [_proto(self.constants[n], n) for n in names if n in self.constants]
        given = [_declared(n, values[n]) for n in names if n not in self._initializers and n not in self.constants]
        results = [onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], "alone", given, results, held)
        # The model's own versions and functions: operators mean by them what they do in it.
        model = onnx.helper.make_model(graph, ir_version=self._model.ir_version, functions=self._model.functions)
        del model.opset_import[:]
        model.opset_import.extend(self._model.opset_import)
        return model

    def computed(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the node gives.

        Raises:
            ConversionError: ONNX Runtime does not run it on these values.
        """
        names = [name for name in node.output if name]
        given = {name: values[name] for name in self.reads(node)}
        try:
            # Its shapes are free, so a node's session serves every row.
            session = self._sessions.get(names[0])
            if session is None:
                session = self._sessions[names[0]] = _session(self.alone(node, values))
            return dict(zip(names, session.run(names, given), strict=True))
        except Exception as e:  # ONNX Runtime's errors share no base that it exports
            raise ConversionError(f"ONNX operator '{node.op_type}' at '{names[0]}': {_first_line(e)}") from e

    def _narrowest_of(self, node: onnx.NodeProto) -> str:
        return narrowest([self.stored_as.get(name, "") for name in _read_by(node)])


class OnnxComputation(Computation):
    """See `Computation`; ``outputs`` are the names of the model's outputs, in its order."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        model = onnx_file.load(path)
        self._nodes = SingleNodes(model)
        self._path = path
        self._whole: onnxruntime.InferenceSession | None = None
        held = {tensor.name for tensor in model.graph.initializer}
        self._entries = [value.name for value in model.graph.input if value.name not in held]
        require_inputs(path, self._entries, inputs)
        given = [value.name for value in model.graph.output]
        self.outputs = list(outputs) if set(outputs) <= set(given) else given
        self.quantized = dict(self._quantizations())
        self._types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        self.operators = [self._operator(node) for node in self._nodes.nodes]
        self._of = {operator.name: node for operator, node in zip(self.operators, self._nodes.nodes, strict=True)}

    def _operator(self, node: onnx.NodeProto) -> Operator:
        weights = [self._nodes.stored_as.get(name, "") for name in node.input]
        results = tuple(name for name in node.output if name)
        result_dtypes = ["int8" for name in results if name in self.quantized]
        return Operator(
            kind=node.op_type,
            reads=self._nodes.reads(node),
            gives=results,
            dtype=narrowest(result_dtypes + weights),
            node=node.name,
            moves=moving(node.op_type, _SHAPES, _ORDERS),
        )

    def _quantizations(self) -> list[tuple[str, Quantization]]:
        """Of the values that stand in 8 bits with a scale that does not depend on the row."""
        quantizations = []
        for node in self._nodes.nodes:
            # What goes out of the one and into the other is stored in 8 bits, the other side is real.
            if node.op_type == "QuantizeLinear":
                name, (scale, *zero) = node.output[0], node.input[1:]
            elif node.op_type == "DequantizeLinear":
                name, (scale, *zero) = node.input[0], node.input[1:]
            else:
                continue
            factor = self._nodes.constant(scale)
            point = self._nodes.constant(zero[0]) if zero else None
            if factor is not None:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                shift = np.zeros(factor.shape) if point is None else point.astype(np.float64)
                quantizations.append((name, Quantization(factor.astype(np.float64), shift, axis)))
        return quantizations

    def entered(self, row: Arrays) -> dict[str, Any]:
        """See `Computation`."""
        # A file of others may call its inputs otherwise: they are taken in their order.
        by_name = row if set(row) == set(self._entries) else dict(zip(self._entries, row.values(), strict=True))
        types = {n: onnx.helper.tensor_dtype_to_np_dtype(self._types[n]) for n in self._entries if self._types.get(n)}
        return {name: column.astype(types.get(name, column.dtype), copy=False) for name, column in by_name.items()}

    def computed(self, operator: Operator, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Computation`."""
        return self._nodes.computed(self._of[operator.name], values)

    def whole(self, row: Arrays) -> list[np.ndarray]:
        """See `Computation`."""
        given = self.entered(row)
        try:
            if self._whole is None:
                options = onnxruntime.SessionOptions()
                options.log_severity_level = _SEVERITY_FATAL
                providers = ["CPUExecutionProvider"]
                self._whole = onnxruntime.InferenceSession(str(self._path), options, providers=providers)
            return [np.asarray(value) for value in self._whole.run(list(self.outputs), given)]
        except Exception as e:  # ONNX Runtime's errors share no base that it exports
            raise ConversionError(f"{self._path.name}: ONNX Runtime does not run it: {_first_line(e)}") from e


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes so that each comes after those that it reads: ONNX Runtime's half precision appends its casts."""
    nodes = list(graph.node)
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    # Of each node those that it waits for, and of each those that wait for it.
    waits_for = [{maker[name] for name in _read_by(node) if name in maker} for node in nodes]
    readers: dict[int, list[int]] = {}
    for place, makers in enumerate(waits_for):
        for one in makers:
            readers.setdefault(one, []).append(place)
    ready = [place for place, makers in enumerate(waits_for) if not makers]
    ordered: list[onnx.NodeProto] = []
    while ready:
        # The first in the file's own order, which most files have right.
        place = heapq.heappop(ready)
        ordered.append(nodes[place])
        for reader in readers.get(place, ()):
            waits_for[reader].discard(place)
            if not waits_for[reader]:
                heapq.heappush(ready, reader)
    if len(ordered) < len(nodes):
        stuck = next(node for node, makers in zip(nodes, waits_for, strict=True) if makers)
        raise ConversionError(f"node '{stuck.name}' ({stuck.op_type}) reads what no node before it makes")
    return ordered


def _read_by(node: onnx.NodeProto) -> list[str]:
    """What a node reads, and what the graphs inside it read from around them."""
    inner = [g for a in node.attribute if a.type in _GRAPHS for g in (a.g, *a.graphs)]
    return [name for name in (*node.input, *(n for g in inner for n in _captured(g))) if name]


def _captured(graph: onnx.GraphProto) -> list[str]:
    # Names of its own are not read from around it.
    own = {value.name for value in (*graph.input, *graph.initializer)} | {n for o in graph.node for n in o.output}
    read = [name for node in graph.node for name in _read_by(node)] + [value.name for value in graph.output]
    return [name for name in dict.fromkeys(read) if name not in own]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _SEVERITY_FATAL
    options.intra_op_num_threads = 1  # hundreds of thread pools would be made, and take seconds to end
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _declared(name: str, value: Any) -> onnx.ValueInfoProto:
    if isinstance(value, list):
        kind = onnx.helper.np_dtype_to_tensor_dtype(value[0].dtype) if value else onnx.TensorProto.FLOAT
        return onnx.helper.make_tensor_sequence_value_info(name, kind, None)
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), None)


def _proto(value: Any, name: str) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(value), name)

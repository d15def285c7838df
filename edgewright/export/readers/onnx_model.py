"""`.onnx`: initializers are constants; scales, zero points, shapes and indices are no weights."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

from edgewright.export import onnx_file
from edgewright.export.readers.contents import Contents
from edgewright.export.readers.tally import Tally

__all__ = ["read"]

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"}
_STRINGS = onnx.TensorProto.STRING


def read(path: Path) -> Contents:
    """What an ONNX model stores, nested graphs and tree attributes included."""
    model = onnx_file.load(path)
    tally = Tally()
    operators: Counter[str] = Counter()
    for graph in _graphs(model.graph):
        # Integers are weights where they are dequantized, and shapes or indices elsewhere.
        dequantized = {n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
        parameters_of = {name for n in graph.node if n.op_type in _QUANTIZERS for name in n.input[1:]}
        for tensor in graph.initializer:
            if tensor.data_type != _STRINGS:
                array = onnx.numpy_helper.to_array(tensor)
                is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
                is_weight = tensor.name not in parameters_of and (is_float or tensor.name in dequantized)
                tally.add_array(array, is_weight=is_weight)
        for node in graph.node:
            # ONNX's own operators without their domain, which is empty or `ai.onnx`; `ai.onnx.ml` stays as `ml`.
            operators[f"{node.domain}.{node.op_type}".removeprefix("ai.onnx.").removeprefix(".")] += 1
            _count_attributes(tally, node)
    declared = onnx_file.tensors(path)
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    return tally.result(declared.inputs, declared.outputs, dict(operators), [f"opset {opsets}"])


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from _graphs(inner)


def _count_attributes(tally: Tally, node: onnx.NodeProto) -> None:
    """Classical models keep their numbers in attributes (``ai.onnx.ml``), Constant nodes their tensor."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type != _STRINGS:
            array = onnx.numpy_helper.to_array(attribute.t)
            tally.add_array(array, is_weight=array.dtype.kind == "f")
        elif attribute.type == onnx.AttributeProto.FLOATS and node.domain == "ai.onnx.ml":
            zeros = sum(1 for value in attribute.floats if value == 0)
            tally.add("float32", len(attribute.floats), zeros, 4 * len(attribute.floats), is_weight=True)

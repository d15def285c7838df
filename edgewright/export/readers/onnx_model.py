"""`.onnx`: initializers are constants; scales, zero points, shapes and indices are not weights."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.export import onnx_file
from edgewright.export.packed_bits import unpacked
from edgewright.export.readers.contents import Contents
from edgewright.export.readers.tally import Tally
from edgewright.intake.onnx_tensors import array_of, graphs_of

__all__ = ["read"]

# Where each operator on integers takes weights and biases; its other inputs are scales and zero points.
_INTEGER_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    **{"QuantizeLinear": (0,), "DequantizeLinear": (0,), "ConvInteger": (0, 1), "MatMulInteger": (0, 1)},
    **{"QLinearConv": (0, 3, 8), "QLinearMatMul": (0, 3), "QGemm": (0, 3, 6), "MatMulIntegerToFloat": (0, 1, 6)},
    **{"DynamicQuantizeMatMul": (0, 1, 4), "MatMulNBits": (0, 1, 5)},
}
_STRINGS = onnx.TensorProto.STRING


def read(path: Path) -> Contents:
    """What an ONNX model stores, nested graphs and tree attributes included.

    Raises:
        InputError: not an ONNX model, or a damaged one.
    """
    model = onnx_file.load(path)
    tally = Tally()
    operators: Counter[str] = Counter()
    for graph in graphs_of(model.graph):
        _count_initializers(tally, graph, path)
        for node in graph.node:
            # ONNX's own operators without their domain, which is empty or `ai.onnx`; `ai.onnx.ml` stays as `ml`.
            operators[f"{node.domain}.{node.op_type}".removeprefix("ai.onnx.").removeprefix(".")] += 1
            _count_attributes(tally, node, path)
    declared = onnx_file.tensors(path)
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    return tally.result(declared.inputs, declared.outputs, dict(operators), [f"opset {opsets}"])


def _count_initializers(tally: Tally, graph: onnx.GraphProto, path: Path) -> None:
    # A weight may stand in the graph around the one that reads it.
    nodes = [node for inner in graphs_of(graph) for node in inner.node]
    integer_weights = {
        node.input[place]
        for node in nodes
        for place in _INTEGER_WEIGHTS.get(node.op_type, ())
        if place < len(node.input)
    }
    held = {tensor.name: tensor for tensor in graph.initializer}
    packed = {n.input[1]: n for n in nodes if n.op_type == "MatMulNBits" and n.input[1] in held}
    not_weights = {
        name
        for node in nodes
        if node.op_type in _INTEGER_WEIGHTS
        for place, name in enumerate(node.input)
        if place not in _INTEGER_WEIGHTS[node.op_type]
    } | set(_scales_beside_dynamic_ones(nodes))
    for tensor in graph.initializer:
        if tensor.data_type == _STRINGS:
            continue
        array = array_of(tensor, path)
        if tensor.name in packed:
            _count_packed(tally, array, packed[tensor.name], held, path)
            continue
        is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        is_weight = tensor.name not in not_weights and (is_float or tensor.name in integer_weights)
        tally.add_array(array, is_weight=is_weight)


def _scales_beside_dynamic_ones(nodes: list[onnx.NodeProto]) -> Iterator[str]:
    """What the scale of an activation, known at run time only, is multiplied by: the scale of a weight."""
    dynamic = {node.output[1] for node in nodes if node.op_type == "DynamicQuantizeLinear"}
    for node in nodes:
        if node.op_type == "Mul" and dynamic & set(node.input):
            yield from set(node.input) - dynamic


def _count_packed(
    tally: Tally, array: NDArray[Any], node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto], path: Path
) -> None:
    """A weight of N outputs by K inputs, (N, blocks, bytes of a block): the last block of a row may reach beyond it."""
    settings = {a.name: a.i for a in node.attribute}
    bits, columns, rows = settings.get("bits", 4), settings["K"], settings["N"]
    levels = unpacked(array.reshape(rows, -1), bits)
    zero: Any = 1 << (bits - 1)  # by the operator's specification, where no zero points are given
    if len(node.input) > 3 and node.input[3] in held:
        points = array_of(held[node.input[3]], path)
        blocks = -(-columns // settings["block_size"])
        points = unpacked(points.reshape(rows, -1), bits) if points.dtype == np.uint8 else points.reshape(rows, -1)
        zero = points[:, :blocks].repeat(settings["block_size"], 1)[:, :columns]
    zeros = int((levels[:, :columns] == zero).sum())
    tally.add(f"uint{bits}", rows * columns, zeros, array.nbytes, is_weight=True)


def _count_attributes(tally: Tally, node: onnx.NodeProto, path: Path) -> None:
    """Classical models keep their numbers in attributes (``ai.onnx.ml``), Constant nodes their tensor."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type != _STRINGS:
            array = array_of(attribute.t, path)
            tally.add_array(array, is_weight=array.dtype.kind == "f")
        elif attribute.type == onnx.AttributeProto.FLOATS and node.domain == "ai.onnx.ml":
            zeros = sum(1 for value in attribute.floats if value == 0)
            tally.add("float32", len(attribute.floats), zeros, 4 * len(attribute.floats), is_weight=True)

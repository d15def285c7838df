"""Outputs of a `.tflite` that are given twice, or that operators read, too: what its quantizer makes wrong of them."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgewright.export.tflite import DTYPES, operator_name

__all__ = ["part_outputs", "point_to_outputs", "read_in_their_width"]


def part_outputs(model: Any) -> None:
    """Give an output that is the same tensor as one before it a tensor of its own, by a reshape to the shape it has."""
    signature, graph = model.signatureDefs[0], model.subgraphs[0]
    seen = set[int]()
    for place, index in enumerate([int(i) for i in graph.outputs]):
        if index in seen:
            graph.outputs[place] = _reshaped(model, index)
            [*_, last] = [entry for entry in signature.outputs if entry.tensorIndex == index]
            last.tensorIndex = graph.outputs[place]
        seen.add(index)


def read_in_their_width(model: Any) -> None:
    """Have an operator in 8 bits read a tensor in 8 bits, where it was given its float copy: an output stays float,
    and ai-edge-quantizer hands that copy to the operators that only move values, as well."""
    for graph in model.subgraphs:
        # From each float copy to the tensor in 8 bits that it was made of.
        before = {int(o.outputs[0]): int(o.inputs[0]) for o in _of_kind(model, graph, "DEQUANTIZE")}
        for operator in graph.operators:
            if operator_name(model, operator) in {"DEQUANTIZE", "QUANTIZE"} or not _is_in_8_bits(graph, operator):
                continue
            operator.inputs = [before.get(int(i), int(i)) for i in operator.inputs]


def point_to_outputs(model: Any) -> None:
    """Have the signature name the float copy of an output that operators read, too: ai-edge-quantizer leaves it at the
    tensor in 8 bits, which is not an output any more and has no memory once the model has run."""
    graph = model.subgraphs[0]
    outputs = {int(i) for i in graph.outputs}
    copies = {int(o.inputs[0]): int(o.outputs[0]) for o in _of_kind(model, graph, "DEQUANTIZE")}
    for entry in model.signatureDefs[0].outputs:
        if entry.tensorIndex not in outputs and copies.get(entry.tensorIndex) in outputs:
            entry.tensorIndex = copies[entry.tensorIndex]


def _of_kind(model: Any, graph: Any, kind: str) -> Iterable[Any]:
    return (operator for operator in graph.operators if operator_name(model, operator) == kind)


def _is_in_8_bits(graph: Any, operator: Any) -> bool:
    return all(DTYPES[graph.tensors[i].type] == "int8" for i in operator.outputs)


def _reshaped(model: Any, index: int) -> int:
    """The place of a new tensor that has the content of the one there."""
    graph = model.subgraphs[0]
    taken = {tensor.name for tensor in graph.tensors}
    added, shape = copy.copy(graph.tensors[index]), schema.TensorT()
    added.name = next(name for n in range(2, len(taken) + 3) if (name := added.name + b"_%d" % n) not in taken)
    added.buffer = 0  # the schema's own for what holds no constant
    shape.name, shape.type = added.name + b"/shape", schema.TensorType.INT32
    shape.shape, shape.buffer = [len(added.shape)], len(model.buffers)
    held = schema.BufferT()
    # RESHAPE takes its shape from a second input or, where there is none, from its options: the same in both.
    held.data = np.array(added.shape, "<i4").view(np.uint8)
    model.buffers.append(held)
    graph.tensors.extend((added, shape))
    place = len(graph.tensors) - 2
    operator, options = schema.OperatorT(), schema.ReshapeOptionsT()
    operator.opcodeIndex = _place_of_code(model, schema.BuiltinOperator.RESHAPE)
    operator.inputs, operator.outputs = [index, place + 1], [place]
    options.newShape = [int(n) for n in added.shape]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.ReshapeOptions, options
    graph.operators.append(operator)
    return place


def _place_of_code(model: Any, code: int) -> int:
    """Among the operators that the file names, to which it is added where it is none of them."""
    for place, entry in enumerate(model.operatorCodes):
        if entry.builtinCode == code:
            return place
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = code
    added.version = 1
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1

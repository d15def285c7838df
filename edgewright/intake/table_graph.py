"""Making a scikit-learn ONNX graph take numbers only: one ``features`` tensor, strings replaced by codes.

One vocabulary serves the whole graph, so that columns may be concatenated before they are encoded; a string that
is in none of the model's lists becomes -1, which matches nothing. Runs in a child process: imports onnx.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgewright.errors import ConversionError, UnsupportedError

__all__ = ["FEATURES", "strings_of", "with_features_input"]

FEATURES = "features"
_STRING_LISTS = {"cats_strings": "cats_int64s", "keys_strings": "keys_floats"}
_SAFE_WITH_CODES = """
OneHotEncoder LabelEncoder Concat Identity Reshape Equal Where ArrayFeatureExtractor Gather Slice Split Unsqueeze
Squeeze Flatten Transpose Cast Not And Or Constant Shape ConstantOfShape Expand
"""


def strings_of(model: onnx.ModelProto) -> dict[str, int]:
    """Every string that the graph compares an input with, and its code: the position in the sorted list."""
    found: set[str] = set()
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in _STRING_LISTS:
                found.update(s.decode() for s in attribute.strings)
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.STRING:
                found.update(s.decode() for s in attribute.t.string_data)
    for initializer in model.graph.initializer:
        if initializer.data_type == TensorProto.STRING:
            found.update(s.decode() for s in initializer.string_data)
    return {s: code for code, s in enumerate(sorted(found))}


def with_features_input(model: onnx.ModelProto, columns: Sequence[str], codes: Mapping[str, int]) -> None:
    """Make ``features`` (N, len(columns)) float32 the one input, in place of one (N, 1) for each column, or of text."""
    graph = model.graph
    by_name = {entry.name: entry for entry in graph.input}
    textual = [e.name for e in graph.input if e.type.tensor_type.elem_type == TensorProto.STRING]
    if textual:
        _code_strings(graph, set(textual), codes)
    del graph.input[:]
    del graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [None, len(columns)]))
    if set(by_name) == {FEATURES} and len(columns) != 1:
        return
    if len(by_name) != len(columns):
        raise ConversionError(f"skl2onnx made {len(by_name)} inputs of {len(columns)} columns")
    # By position: skl2onnx writes "mean radius" as "mean_radius".
    # A column may bear any name, also that of the new input.
    inside = {column: f"{FEATURES}_column_{i}" for i, column in enumerate(by_name)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
    picks = [
        helper.make_node("Gather", [FEATURES, f"{FEATURES}_index_{i}"], [column], name=f"pick_{i}", axis=1)
        for i, column in enumerate(inside.values())
    ]
    for i in range(len(columns)):
        graph.initializer.append(numpy_helper.from_array(np.array([i], dtype=np.int64), f"{FEATURES}_index_{i}"))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*picks, *rest])


def _code_strings(graph: onnx.GraphProto, textual: set[str], codes: Mapping[str, int]) -> None:
    """Follow the strings through the graph; whatever compares them compares codes instead."""
    for initializer in graph.initializer:
        if initializer.data_type == TensorProto.STRING:
            textual.add(initializer.name)
            initializer.CopyFrom(_coded(initializer, codes))
    for node in graph.node:
        touched = any(name in textual for name in node.input)
        constant = node.op_type == "Constant" and node.attribute[0].t.data_type == TensorProto.STRING
        if not touched and not constant:
            continue
        if node.op_type not in _SAFE_WITH_CODES.split():
            raise UnsupportedError(
                f"operator {node.op_type} (node '{node.name}') works on text; only encoders of whole values "
                "(OneHotEncoder, OrdinalEncoder) can be used on string columns"
            )
        ends = _code_attributes(node, codes)
        if constant:
            node.attribute[0].t.CopyFrom(_coded(node.attribute[0].t, codes))
        if not ends and node.op_type not in {"Equal", "Shape"}:
            textual.update(node.output)


def _code_attributes(node: onnx.NodeProto, codes: Mapping[str, int]) -> bool:
    """Replace a node's string lists; True where its output is no longer text."""
    changed = False
    for attribute in list(node.attribute):
        if attribute.name in _STRING_LISTS:
            values: list[Any] = [codes[s.decode()] for s in attribute.strings]
            renamed = _STRING_LISTS[attribute.name]
            node.attribute.remove(attribute)
            node.attribute.append(
                helper.make_attribute(renamed, [float(v) for v in values] if "floats" in renamed else values)
            )
            changed = True
        elif attribute.name == "to" and attribute.i == TensorProto.STRING:
            attribute.i = TensorProto.FLOAT
    return changed


def _coded(tensor: onnx.TensorProto, codes: Mapping[str, int]) -> onnx.TensorProto:
    numbers = np.array([codes[s.decode()] for s in tensor.string_data], dtype=np.float32).reshape(tuple(tensor.dims))
    return numpy_helper.from_array(numbers, tensor.name)

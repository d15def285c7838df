"""Which nodes of an ONNX graph its outputs need. Runs in a child process: imports onnx."""

from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgewright.intake.onnx_tensors import array_of
from edgewright.intake.tensor_names import plain_name

__all__ = ["constant_value", "drop_unused", "fix_input", "float32_reason", "has_trees", "needed_nodes", "rename_ends"]


def needed_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in their order; a subgraph's reads of outer names count."""
    wanted = {entry.name for entry in graph.output}
    nodes = []
    # A node stands behind what it reads, so that one pass from the end finds all.
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(_reads(node))
    return nodes[::-1]


def constant_value(node: onnx.NodeProto, known: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic] | None:
    """What a Constant holds, or an Identity of a ``known`` value; None of any other node."""
    if node.domain not in {"", "ai.onnx"}:
        return None
    if node.op_type == "Identity":
        return known.get(node.input[0])
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute} if node.op_type == "Constant" else {}
    if "value" in given:
        return array_of(given["value"])
    names = ("value_float", "value_floats", "value_int", "value_ints")
    value = next((given[name] for name in names if name in given), None)
    return None if value is None else np.asarray(value)


def has_trees(model: onnx.ModelProto) -> bool:
    """Whether the model's decisions rest on comparisons with thresholds."""
    return any(n.op_type.startswith("TreeEnsemble") for n in model.graph.node)


def float32_reason(model: onnx.ModelProto) -> str:
    """Why fewer bits than float32 cannot hold what an operator computes; empty where none is so."""
    if any(n.op_type == "SVMClassifier" and any(a.name == "prob_a" for a in n.attribute) for n in model.graph.node):
        return (
            "cannot hold what SVMClassifier divides by for its probabilities, squares down to 1e-14; fitted without"
            " probability=True it gives scores, which can"
        )
    return ""


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and initializers that no output depends on."""
    nodes = needed_nodes(model.graph)
    # Outputs may be initializers themselves.
    read = {name for node in nodes for name in _reads(node)} | {o.name for o in model.graph.output}
    constants = [i for i in model.graph.initializer if i.name in read]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)


def fix_input(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    """Make a constant of an input."""
    model.graph.input.remove(next(entry for entry in model.graph.input if entry.name == name))
    model.graph.initializer.append(numpy_helper.from_array(value, name))


def rename_ends(model: onnx.ModelProto, wanted: Mapping[str, str] | None = None) -> None:
    """Give inputs and outputs the ``wanted`` names, by default their own made fit for every target's identifiers.

    ``wanted`` may name values further inside, too. Whatever else has such a name already is given another.
    """
    ends = [e.name for e in (*model.graph.input, *model.graph.output)]
    # Taken before renaming: a name inside must not become that of an end.
    used = _names(model.graph)
    names: dict[str, str] = {}
    for name in dict.fromkeys([*ends, *(wanted or ())]):
        asked = plain_name(name) if wanted is None else wanted.get(name, name)
        names[name] = _free(asked, set(names.values()))
    for name in sorted(used - set(names)):
        if name in set(names.values()):
            names[name] = _free(name, used | set(names.values()))
    _rename(model.graph, names)


def _free(name: str, taken: set[str]) -> str:
    """The name, or the first of ``name_1``, ``name_2``, … that is not taken."""
    return name if name not in taken else next(n for i in count(1) if (n := f"{name}_{i}") not in taken)


def _names(graph: onnx.GraphProto) -> set[str]:
    """Of every value in it and in its subgraphs."""
    names = {entry.name for entry in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.input, node.output)
        for inner in _inner_graphs(node):
            names |= _names(inner)
    return names


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        entry.name = names.get(entry.name, entry.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        for inner in _inner_graphs(node):  # it may read the values outside it
            _rename(inner, names)


def _inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [g for attribute in node.attribute for g in (attribute.g, *attribute.graphs)]


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for inner in _inner_graphs(node):
        names.update(entry.name for entry in inner.output)
        for child in inner.node:
            names |= _reads(child)
    return names

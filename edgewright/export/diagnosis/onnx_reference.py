"""An ONNX graph as a reference. Runs in a child process: imports onnxruntime, and torch where a node is opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgewright.errors import InputError, UnsupportedError
from edgewright.export import onnx_file
from edgewright.export.diagnosis.onnx_computation import SingleNodes
from edgewright.export.diagnosis.reference import Node, Reference
from edgewright.export.runs import Arrays

__all__ = ["onnx_reference"]


def onnx_reference(path: Path, rows: Sequence[Arrays], outputs: Sequence[str]) -> Reference:
    """Each row is {input: (1, ...)}; ``outputs`` are the model's, in its order."""
    model = onnx_file.load(path)
    single = SingleNodes(model)
    entries = list(rows[0])
    nodes = [Node(name, name, "input", ()) for name in entries]
    by_name: dict[str, onnx.NodeProto] = {}
    for onnx_node in single.nodes:
        reads = single.reads(onnx_node)
        results = [name for name in onnx_node.output if name]
        nodes += [Node(name, onnx_node.name or name, onnx_node.op_type, reads) for name in results]
        by_name |= dict.fromkeys(results, onnx_node)
    values = _stacks(model, [node.name for node in nodes if node.kind != "input"], rows)
    values |= {name: np.stack([row[name] for row in rows]) for name in entries}

    def inside(node: Node) -> tuple[list[Node], dict[str, np.ndarray]]:
        if node.name not in by_name or any(name not in values for name in node.reads):
            return [], {}
        return _inside(node, by_name[node.name], single, values)

    return Reference(nodes, values, outputs, inside)


def _stacks(model: onnx.ModelProto, names: list[str], rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    declared = {value.name for value in model.graph.output}
    # All values become outputs; their types are left to ONNX Runtime to infer.
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in declared)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # every value as it is named
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [dict(zip(names, session.run(names, row), strict=True)) for row in rows]
    plain = [{n: v for n, v in run.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiub"} for run in runs]
    # A value whose shape a row decides cannot be stacked, and stays a link between others.
    same = [n for n in plain[0] if all(n in run and run[n].shape == plain[0][n].shape for run in plain)]
    return {name: np.stack([run[name] for run in plain]) for name in same}


def _inside(
    node: Node, onnx_node: onnx.NodeProto, single: SingleNodes, values: dict[str, np.ndarray]
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """By way of torch: the importer knows what an ONNX operator is made of."""
    import torch

    from edgewright.export.diagnosis.inside import inside_of
    from edgewright.intake.onnx_graph import import_onnx

    alone = single.alone(onnx_node, {name: values[name][0] for name in node.reads})
    for entry in alone.graph.input:
        # `alone` leaves sizes free, and torch's decompositions are by size.
        shape = values[entry.name].shape[1:]
        entry.CopyFrom(onnx.helper.make_tensor_value_info(entry.name, entry.type.tensor_type.elem_type, shape))
    # Of several results the one that is opened.
    node_outputs = [value for value in alone.graph.output if value.name == node.name]
    del alone.graph.output[:]
    alone.graph.output.extend(node_outputs)
    try:
        graph: Any = import_onnx(alone).eval()
    except (UnsupportedError, InputError):
        return [], {}
    count = len(next(iter(values.values())))
    order = [entry.name for entry in alone.graph.input]
    given = [tuple(torch.from_numpy(np.ascontiguousarray(values[n][i])) for n in order) for i in range(count)]
    return inside_of(Node(node.name, node.layer, node.kind, tuple(order)), graph, given)

"""Putting an ONNX graph together from converted parts and operators of one's own. Runs in a child process."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

__all__ = ["Assembly", "columns_of_output"]

# As skl2onnx writes the parts: a graph has one version of each domain.
_OPSET = 18


class Assembly:
    """A graph in the making over given inputs; every value is named by a string."""

    def __init__(self, inputs: Sequence[onnx.ValueInfoProto]) -> None:
        self.inputs = list(inputs)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.opsets = {"": _OPSET}
        self.count = 0

    def part(self, model: onnx.ModelProto, inputs: Mapping[str, str] | None = None) -> str:
        """Add a converted model and return its output's name; ``inputs`` feeds its inputs by other names.

        Without ``inputs`` it takes those of this graph in their order: skl2onnx writes "two words" as "two_words".
        """
        self.count += 1
        own = [e.name for e in model.graph.input]
        fed = dict(zip(own, [e.name for e in self.inputs], strict=True)) if inputs is None else inputs
        output = model.graph.output[0].name
        if output in fed:
            return fed[output]  # what changes nothing has no node
        # Parts name their values alike; inputs keep their names, by which they are fed.
        prefixed = compose.add_prefix(model, f"part{self.count}_", rename_inputs=False)
        for node in prefixed.graph.node:
            node.input[:] = [fed.get(n, n) for n in node.input]
        self.nodes.extend(prefixed.graph.node)
        self.constants.extend(prefixed.graph.initializer)
        # One version for all parts: the newest that any of them was written for.
        for opset in prefixed.opset_import:
            self.opsets[opset.domain] = max(opset.version, self.opsets.get(opset.domain, 1))
        return str(prefixed.graph.output[0].name)

    def call(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator and return its first output's name."""
        return self.several(1, kind, *inputs, domain=domain, **attributes)[0]

    def several(self, outputs: int, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> tuple[str, ...]:
        """Add an operator of several outputs."""
        self.count += 1
        names = tuple(f"{kind}_{self.count}_{i}" for i in range(outputs))
        self.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{self.count}", domain=domain, **attributes))
        if domain:
            self.opsets.setdefault(domain, 1)
        return names

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant and its name."""
        self.count += 1
        array: NDArray[Any] = np.asarray(values).astype(dtype)
        self.constants.append(numpy_helper.from_array(array, f"constant_{self.count}"))
        return f"constant_{self.count}"

    def finish(self, output: str, name: str, columns: int) -> onnx.ModelProto:
        """The model; ``output`` (N, columns) float32 gets the given name."""
        # An Identity, since the value may be an input of the graph, which cannot be renamed.
        self.nodes.append(helper.make_node("Identity", [output], [name], f"{name}_of_assembly"))
        end = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, columns])
        graph = helper.make_graph(self.nodes, "assembly", self.inputs, [end], self.constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        # By default onnx declares its newest IR version, which an older runtime refuses.
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def columns_of_output(model: onnx.ModelProto) -> int:
    """How many columns the one output has, by running a row of zeros and empty texts."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed: dict[str, NDArray[Any]] = {}
    for entry in model.graph.input:
        # A free size counts as 1.
        shape = [d.dim_value or 1 for d in entry.type.tensor_type.shape.dim]
        text = entry.type.tensor_type.elem_type == TensorProto.STRING
        feed[entry.name] = np.full(shape, "", dtype=object) if text else np.zeros(shape, np.float32)
    return int(session.run(None, feed)[0].size)

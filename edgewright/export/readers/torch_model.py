"""`.pt2` programs and Edgewright's own torch graphs."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch.export.graph_signature import ConstantArgument

from edgewright.artifact import Format
from edgewright.export.readers.contents import Contents
from edgewright.export.readers.tally import Tally
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["read"]


def read(path: Path, form: Format) -> Contents:
    """What a torch model stores."""
    return _graph(path) if form is Format.TORCH_GRAPH else _program(path)


def _graph(path: Path) -> Contents:
    from edgewright.intake import torch_graph

    module = torch_graph.load(path)
    operators = Counter(_operator(node) for node in module.graph.nodes if node.op.startswith("call_"))
    for node in module.graph.nodes:
        if node.op == "call_module":
            # A layer by its kind, in the place of the path by which the graph calls it.
            operators[type(module.get_submodule(node.target)).__name__] += 1
            operators[_operator(node)] -= 1
    inputs = [TensorSpec(node.name, (), "unknown") for node in module.graph.nodes if node.op == "placeholder"]
    notes = ["a graph of any shape: its tensors are declared by the model it was imported from"]
    return _counted(dict(module.state_dict())).result(inputs, [], {k: n for k, n in operators.items() if n > 0}, notes)


def _program(path: Path) -> Contents:
    from edgewright.intake.torch_source import load_program

    program = load_program(path)
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes}
    # A number, text or None that the program was exported with, or returns, is held in its signature: it has no node.
    inputs = [_spec(name, nodes[name]) for name in signature.user_inputs if _is_computed(name, nodes)]
    outputs = [_spec(name, nodes[name]) for name in signature.user_outputs if _is_computed(name, nodes)]
    fixed = [s.arg for s in signature.input_specs if isinstance(s.arg, ConstantArgument)]
    notes = [f"the input '{argument.name}' is {argument.value!r}, fixed when it was exported" for argument in fixed]
    operators = Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function")
    # Tensors that the program made itself are constants, and no parameters of the module.
    return _counted({**program.state_dict, **program.constants}).result(inputs, outputs, dict(operators), notes)


def _is_computed(name: object, nodes: Mapping[str, torch.fx.Node]) -> TypeGuard[str]:
    return isinstance(name, str) and name in nodes


def _operator(node: torch.fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _counted(tensors: dict[str, Any]) -> Tally:
    tally = Tally()
    for tensor in tensors.values():
        if isinstance(tensor, torch.Tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            zeros = int(tensor.numel() - tensor.count_nonzero())
            tally.add(dtype, tensor.numel(), zeros, tensor.nbytes, is_weight=tensor.is_floating_point())
    return tally


def _spec(name: str, node: torch.fx.Node) -> TensorSpec:
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):  # a number that is free, or an object of the program's own
        return TensorSpec(name, (), type(value).__name__)
    shape = tuple(n if isinstance(n, int) else -1 for n in value.shape)
    return TensorSpec(name, shape, str(value.dtype).removeprefix("torch."))

"""A torch graph for one shape of its inputs: what follows from sizes alone is computed here, once.

Masks, positions and index tables are made of sizes by operations that few converters know; with one row and fixed sizes
they are constants. Runs in a child process: imports torch.
"""

import copy
from typing import Any

import torch
from torch import fx

from edgewright.errors import UnsupportedError
from edgewright.intake.module_paths import free_name, place

__all__ = ["NodeValues", "static_graph"]

_LARGEST_CONSTANT = 1 << 22  # elements; above it the operations that make it stay
_GROWTH = 4  # of elements: what only repeats a small tensor stays an operation
_SHAPE_ONLY = frozenset(
    {
        *(f"aten.{name}.default" for name in ("new_ones", "new_zeros", "new_full", "new_empty")),
        *(f"aten.{name}.default" for name in ("zeros_like", "ones_like", "full_like", "empty_like")),
        *("aten.fill.Scalar", "aten.fill.Tensor", "aten.sym_size.int", "aten.sym_numel.default"),
    }
)
"""Of their first operand they take the shape alone."""


class NodeValues(fx.Interpreter):
    """Run the graph once and keep what each node gives, which nodes depend on the inputs' values, and which draw at
    random."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.dependent: set[fx.Node] = set()
        self.drawing: set[fx.Node] = set()

    @classmethod
    def of(cls, module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> "NodeValues":
        """The values for one set of inputs."""
        values = cls(module)
        # For one run, oneDNN would load its kernels and keep reordered copies of the weights.
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            values.run(*examples)
        return values

    def run_node(self, n: fx.Node) -> Any:
        """Run it, and note whether the inputs decide what it gives."""
        operands = n.all_input_nodes
        # `zeros_like(x)` is a constant though it reads an input: sizes are fixed here.
        if n.op == "call_function" and str(n.target) in _SHAPE_ONLY:
            operands = [o for o in operands if o is not n.args[0]]
        # Layers are what quantizers look for: they stay, whatever they are given.
        if n.op in {"placeholder", "call_module"} or any(o in self.dependent for o in operands):
            self.dependent.add(n)
        if not n.op.startswith("call_"):
            return super().run_node(n)
        # By the generator, not by the operation: a dropout that is turned off draws nothing.
        before = torch.get_rng_state()
        result = super().run_node(n)
        if not torch.equal(before, torch.get_rng_state()):
            self.drawing.add(n)
        return result


def static_graph(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """A copy for inputs of the examples' shapes, without what does not depend on their values.

    Raises:
        UnsupportedError: it draws at random; names the operator.
    """
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    module.graph.eliminate_dead_code()
    values = NodeValues.of(module, examples)
    drawing = next((node for node in module.graph.nodes if node in values.drawing and node.users), None)
    if drawing is not None:
        raise UnsupportedError(
            f"operator {drawing.target} (node '{drawing.name}') draws at random, so that no file can be compared with"
            " the model: give the numbers as an input, or export the model as it answers without them"
        )
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node not in values.dependent:
            _make_constant(module, node, values)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _make_constant(module: fx.GraphModule, node: fx.Node, values: NodeValues) -> None:
    # Only where a constant meets what stays: what is between constants is dead code afterwards.
    readers = [user for user in node.users if user in values.dependent or _stays(user, values)]
    value = values.env[node]
    if not readers:
        return
    if isinstance(value, (int, float, bool)):
        node.replace_all_uses_with(value)  # type: ignore[arg-type]
    elif isinstance(value, torch.Tensor) and value.numel() <= _LARGEST_CONSTANT and not _only_repeats(node, values):
        path = free_name(module, f"{node.name}_constant")
        # A clone: the value may be a view of a larger tensor, or expanded, and would be stored as such.
        place(module, path, value.detach().clone().contiguous())
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(path)
        values.env[constant] = value
        for reader in readers:
            reader.replace_input_with(node, constant)


def _stays(node: fx.Node, values: NodeValues) -> bool:
    """Whether a node that depends on no input is left in the graph."""
    return node.op == "output" or (node.op == "call_function" and _only_repeats(node, values))


def _only_repeats(node: fx.Node, values: NodeValues) -> bool:
    if str(node.target) not in {"aten.expand.default", "aten.repeat.default"}:
        return False
    operand = values.env[node.args[0]]  # type: ignore[index]
    # A mask of 1 x 1 x n x n expanded over the heads would else be stored once for each.
    return bool(values.env[node].numel() > _GROWTH * operand.numel())

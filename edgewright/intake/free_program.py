"""Freeing the batch size of a graph that was exported with a fixed one. Runs in a child process: imports torch.

An export writes the size of its example into the shapes that it reshapes, expands and fills to. What is made here is a
proposal: intake asks it for one row and for many, and keeps the fixed graph where it answers otherwise.
"""

import copy
from typing import Any

import torch
from torch import fx

__all__ = ["freed"]

_ATEN = torch.ops.aten
_RESHAPE = _ATEN.reshape.default
_EXPAND = _ATEN.expand.default
_REPEAT = _ATEN.repeat.default
_FILLED = {_ATEN.zeros.default, _ATEN.ones.default, _ATEN.full.default, _ATEN.empty.memory_format, _ATEN.randn.default}
_FILLED_LIKE = {_ATEN.new_zeros.default, _ATEN.new_ones.default, _ATEN.new_full.default}


def freed(module: fx.GraphModule, size: int) -> fx.GraphModule | None:
    """A copy for any number of rows, as far as its operations allow; None where an input has another first axis."""
    inputs = [n for n in module.graph.nodes if n.op == "placeholder"]
    if any(tuple(n.meta["val"].shape[:1]) != (size,) for n in inputs):
        return None
    # By name: the nodes of the copy are others.
    shapes = {n.name: _shape(n) for n in module.graph.nodes}
    module = copy.deepcopy(module)
    # What an input reaches has the number of rows already; the rest has to be given it.
    reached: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(n in reached for n in node.all_input_nodes):
            reached.add(node)
    first = next(n for n in module.graph.nodes if n.op == "placeholder")
    with module.graph.inserting_after(first):
        rows = module.graph.call_function(_ATEN.sym_size.int, (first, 0))
    for node in module.graph.nodes:
        if node.op == "call_function":
            _let_follow(node, rows, size, shapes, node in reached)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _let_follow(node: fx.Node, rows: fx.Node, size: int, shapes: dict[str, Any], reached: bool) -> None:
    """Replace the size that stands first in what a node makes by the number of rows."""
    arguments: list[Any] = list(node.args)
    if node.target is _RESHAPE and reached:
        # A first size that holds the batch, as (batch * heads, ...) does, is left open; only one may be.
        wanted = list(arguments[1])
        if wanted and isinstance(wanted[0], int) and wanted[0] % size == 0 and -1 not in wanted:
            arguments[1] = [-1, *wanted[1:]]
    elif node.target in {_EXPAND, _REPEAT}:
        wanted = list(arguments[1])
        given = shapes[arguments[0].name]
        # A constant that is repeated over the batch.
        if wanted and wanted[0] == size and (len(given) < len(wanted) or (given and given[0] == 1)) and not reached:
            arguments[1] = [rows, *wanted[1:]]
        elif node.target is _EXPAND and reached and wanted and wanted[0] == size and len(given) == len(wanted):
            # In `expand`, -1 keeps the size.
            arguments[1] = [-1, *wanted[1:]]
    elif node.target in _FILLED or node.target in _FILLED_LIKE:
        place = 1 if node.target in _FILLED_LIKE else 0
        wanted = list(arguments[place])
        # A single axis of that size may as well be a vector of features.
        if len(wanted) > 1 and wanted[0] == size:
            arguments[place] = [rows, *wanted[1:]]
    node.args = tuple(arguments)

"""Each output of a graph as a value of its own that the inputs decide: converters join what is the same value.

They rename an output that is an input or another output, and then miss the second name, or refuse a constant one.
Imports torch.
"""

import copy

import torch
from torch import fx

from edgewright.export.static_graph import NodeValues

__all__ = ["with_own_outputs"]

_ATEN = torch.ops.aten


def with_own_outputs(
    module: fx.GraphModule, examples: tuple[torch.Tensor, ...], *, are_constants_held: bool
) -> fx.GraphModule:
    """The same, where an output is an input or was returned before as its copy; without ``are_constants_held``, one
    that no input decides as a choice by an input between two that are the same."""
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    values = NodeValues.of(module, examples)
    end = next(node for node in module.graph.nodes if node.op == "output")
    results = list(end.args[0]) if isinstance(end.args[0], (tuple, list)) else [end.args[0]]
    for place, result in enumerate(results):
        if not isinstance(result, fx.Node):  # None, or a number, that the model returns as it is
            continue
        with module.graph.inserting_before(end):
            if result not in values.dependent and not are_constants_held:
                results[place] = _chosen(module.graph, result, values)
            elif result.op == "placeholder" or result in results[:place]:
                # A reshape to the shape that it has, the batch left free, gives a value of another name.
                shape = [-1, *values.env[result].shape[1:]] if values.env[result].dim() else []
                results[place] = module.graph.call_function(_ATEN.reshape.default, (result, shape))
    end.args = (tuple(results) if isinstance(end.args[0], (tuple, list)) else results[0],)
    module.recompile()
    return module


def _chosen(graph: fx.Graph, result: fx.Node, values: NodeValues) -> fx.Node:
    given = next(node for node in graph.nodes if node.op == "placeholder")
    whole = graph.call_function(_ATEN.reshape.default, (given, [-1]))
    # Any number of an input will do: both sides of the choice are the constant.
    first = graph.call_function(_ATEN.slice.Tensor, (whole, 0, 0, 1))
    # One number, of the constant's rank: it broadcasts where a converter wants equal ranks.
    axes = [1] * values.env[result].dim()
    by = graph.call_function(_ATEN.reshape.default, (graph.call_function(_ATEN.gt.Scalar, (first, 0)), axes))
    return graph.call_function(_ATEN.where.self, (by, result, result))

"""Pooling of values without a batch axis, given one: converters take the first axis for the batch. Imports torch."""

import copy

import torch
from torch import fx

from edgewright.export.static_graph import NodeValues

__all__ = ["with_a_batch"]

_POOLED_AXES = {
    f"aten.{kind}_pool{axes}d.default": axes
    for kind in ("avg", "max", "adaptive_avg", "_adaptive_avg", "adaptive_max")
    for axes in (1, 2, 3)
} | {f"aten.max_pool{axes}d_with_indices.default": axes for axes in (2, 3)}


def with_a_batch(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """The same, with such values pooled as a batch of one."""
    if not any(str(node.target) in _POOLED_AXES for node in module.graph.nodes):
        return module
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    values = NodeValues.of(module, examples)
    for node in list(module.graph.nodes):
        axes = _POOLED_AXES.get(str(node.target))
        # (C, ...) has no batch; (N, C, ...) has one axis more than that.
        if axes is not None and values.env[node.args[0]].dim() == axes + 1:
            _batch(module.graph, node, is_single=isinstance(values.env[node], torch.Tensor))
    module.recompile()
    return module


def _batch(graph: fx.Graph, node: fx.Node, *, is_single: bool) -> None:
    with graph.inserting_before(node):
        given = graph.call_function(torch.ops.aten.unsqueeze.default, (node.args[0], 0))
    node.args = (given, *node.args[1:])
    # Pooling that tells places too gives a tuple: each part that is read has the added axis.
    for result in [node] if is_single else list(node.users):
        with graph.inserting_after(result):
            squeeze = graph.call_function(torch.ops.aten.squeeze.dim, (result, 0))
        # All but the squeeze, which would else read its own result.
        for user in [user for user in result.users if user is not squeeze]:
            user.replace_input_with(result, squeeze)

"""Attention over four axes, whatever a model gives it: torch's exporter to ONNX takes no others.

Runs in a child process: imports torch.
"""

import copy
from typing import Any

import torch
from torch import fx

from edgewright.export.static_graph import NodeValues

__all__ = ["with_four_axes"]

_ATEN = torch.ops.aten
_ATTENTION = _ATEN.scaled_dot_product_attention.default


def with_four_axes(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """The same, with queries, keys, values and masks of three axes or of five and more brought to four.

    Sizes that are free stay free.
    """
    if not any(node.target is _ATTENTION for node in module.graph.nodes):
        return module
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    values = NodeValues.of(module, examples)
    for node in list(module.graph.nodes):
        if node.target is _ATTENTION:
            ranks = {values.env[given].dim() for given in node.args[:3]}
            # Operands of different ranks broadcast against each other, and stay as they are.
            if ranks == {3} or (len(ranks) == 1 and min(ranks) > 4):
                _rewrite(module.graph, node, values)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _rewrite(graph: fx.Graph, node: fx.Node, values: NodeValues) -> None:
    named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), node.args, strict=False))
    named.update(node.kwargs)
    rank = values.env[node].dim()
    with graph.inserting_before(node):

        def call(function: Any, *arguments: Any) -> fx.Node:
            return graph.call_function(function, arguments)

        # Of a mask the last two axes are those of the scores, so one of fewer axes fits as it is.
        mask = named.get("attn_mask")
        is_wide = isinstance(mask, fx.Node) and values.env[mask].dim() > min(rank - 1, 3)
        # What is changed beside the three: a narrower mask broadcasts over the axis that is added.
        changed = ["query", "key", "value", *(["attn_mask"] if is_wide else [])]
        # (N, L, E) to (N, 1, L, E): one head.
        if rank == 3:
            named.update({name: call(_ATEN.unsqueeze.default, named[name], 1) for name in changed})
            result = call(_ATEN.squeeze.dim, _attention(graph, named), 1)
        else:
            # (..., H, L, E) to (N, H, L, E). Sizes are read in the graph: as numbers they would fix a free batch.
            leading = [call(_ATEN.sym_size.int, named["query"], axis) for axis in range(rank - 3)]
            # An axis of one broadcasts, but can no longer once it is flattened with others.
            if is_wide:
                named["attn_mask"] = call(_ATEN.expand.default, mask, [*leading, -1, -1, -1])
            named.update({name: call(_ATEN.flatten.using_ints, named[name], 0, rank - 4) for name in changed})
            result = call(_ATEN.unflatten.int, _attention(graph, named), 0, leading)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _attention(graph: fx.Graph, named: dict[str, Any]) -> fx.Node:
    arguments = (named.pop("query"), named.pop("key"), named.pop("value"), named.pop("attn_mask", None))
    return graph.call_function(_ATTENTION, arguments, named)

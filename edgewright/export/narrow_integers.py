"""Arithmetic on whole numbers of 8 and 16 bits, in 32 bits and then brought back into its range.

torch wraps it: 100 + 200 is 44 in uint8. Core ML has no such numbers but at a program's ends and computes 300, LiteRT's
kernels and ONNX Runtime's lack them for most operators. Imports torch.
"""

import copy
import operator
from typing import Any

import torch
from torch import fx

from edgewright.export.static_graph import NodeValues

__all__ = ["with_wide_arithmetic"]

_ATEN = torch.ops.aten
_NARROW = {torch.uint8, torch.int8, torch.int16}
# What these give lies in the range of what they take.
_STAYING = """
amax amin bitwise_and bitwise_or bitwise_xor clamp clamp_max clamp_min cummax cummin masked_fill max maximum min minimum
relu remainder sign topk sort where __and__ __or__ __xor__
"""
# Kernels take these in every width: they only move values, or read them in another type.
_PLAIN = {"to", "_to_copy", "clone", "contiguous", "fill", "full_like", "zeros_like", "ones_like", "copy"}


def with_wide_arithmetic(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """The same, its pointwise operations, extremes and orders of narrow whole numbers in int32."""
    values = NodeValues.of(module, examples)
    # Most models have no such numbers, and are spared the copy and a second run: values are by node, and the
    # copy has nodes of its own.
    if not any(_is_narrow(values.env.get(node)) for node in module.graph.nodes):
        return module
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    values = NodeValues.of(module, examples)
    for node in list(module.graph.nodes):
        if isinstance(node.target, torch._ops.OpOverload) and _computes(node) and _is_narrow(values.env[node]):
            _widen(module.graph, node, values)
    module.recompile()
    return module


def _is_narrow(value: Any) -> bool:
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    return isinstance(first, torch.Tensor) and first.dtype in _NARROW


def _stem(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _computes(node: fx.Node) -> bool:
    stem = _stem(node)
    return stem not in _PLAIN and (stem in _STAYING.split() or torch.Tag.pointwise in node.target.tags)  # type: ignore[union-attr]


def _widen(graph: fx.Graph, node: fx.Node, values: NodeValues) -> None:
    value = values.env[node]
    dtype = (value if isinstance(value, torch.Tensor) else value[0]).dtype
    with graph.inserting_before(node):
        for operand in node.all_input_nodes:
            if _is_narrow(values.env[operand]):
                wide = graph.call_function(_ATEN.to.dtype, (operand, torch.int32))
                node.replace_input_with(operand, wide)
    # Of topk, sort and the like, the values are narrowed again; their places are int64 already.
    results = [node] if isinstance(value, torch.Tensor) else [u for u in node.users if _place(u) == 0]
    for result in results:
        with graph.inserting_after(result):
            back = graph.call_function(_ATEN.to.dtype, (result, dtype))
        values.env[back] = values.env[result]
        # All but the cast itself, which would read its own result.
        for user in [user for user in result.users if user is not back]:
            user.replace_input_with(result, back)
        # Wrapped before the cast: Core ML has no narrow type to wrap in, and would hand on 300.
        if _stem(node) not in _STAYING.split():
            with graph.inserting_before(back):
                back.update_arg(0, _wrapped(graph, result, torch.iinfo(dtype)))


def _place(user: fx.Node) -> Any:
    return user.args[1] if user.target is operator.getitem else None


def _wrapped(graph: fx.Graph, node: fx.Node, kind: torch.iinfo) -> fx.Node:
    span = kind.max - kind.min + 1
    if kind.min == 0:
        return graph.call_function(_ATEN.remainder.Scalar, (node, span))
    # Two's complement: moved up so that the range begins at zero, wrapped there, and moved back.
    moved = graph.call_function(_ATEN.add.Tensor, (node, -kind.min))
    return graph.call_function(_ATEN.add.Tensor, (graph.call_function(_ATEN.remainder.Scalar, (moved, span)), kind.min))

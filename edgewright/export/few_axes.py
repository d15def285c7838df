"""A graph without tensors of many axes: converters and kernels stop at five (Core ML) or six.

A tensor of more axes is kept as its numbers in row-major order; each operation on it is done on as few axes as it
takes: neighbours that are treated alike are one axis. Runs in a child process: imports torch.
"""

import copy
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from edgewright.export.static_graph import NodeValues

__all__ = ["with_few_axes"]

_ATEN = torch.ops.aten
# Row-major order stays as it is, so the numbers go on untouched.
_SAME_ORDER = {
    *("aten.reshape.default", "aten.view.default", "aten.flatten.using_ints", "aten.unflatten.int"),
    *("aten.unsqueeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default"),
    *("aten.contiguous.default", "aten.clone.default", "aten._unsafe_view.default", "aten.reshape_as.default"),
}
_MOVES = {"aten.permute.default", "aten.transpose.int", "aten.swapaxes.default", "aten.movedim.int"}
_PARTS = {"aten.unbind.int", "aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default"}
# Along one axis: all axes before it are one, and all behind it another.
_ALONG = {
    "aten.softmax.int",
    "aten.log_softmax.int",
    "aten._softmax.default",
    "aten.cumsum.default",
    "aten.slice.Tensor",
}
# Likewise, with two results: the numbers, and the places where they stand.
_PLACED = {"aten.max.dim", "aten.min.dim", "aten.cummax.default", "aten.cummin.default"}
_REDUCED = {"aten.sum.dim_IntList", "aten.mean.dim", "aten.amax.default", "aten.amin.default"}
# Layers of the last axis or axes, whatever is before them.
_ON_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Dropout, nn.Identity)


def with_few_axes(module: fx.GraphModule, examples: tuple[torch.Tensor, ...], most: int) -> fx.GraphModule:
    """A copy whose tensors have at most ``most`` axes, where each operation on larger ones has a form of that kind.

    An operation that has none stays, and the converter refuses it by name.
    """
    values = NodeValues.of(module, examples)
    if not any(_rank(v) > most for v in values.env.values()):
        return module
    new = copy.copy(module)
    new.graph = fx.Graph()
    rewriter = _Rewriter(module, values, new.graph, most)
    for node in module.graph.nodes:
        rewriter.copy(node)
    new.graph.eliminate_dead_code()
    new.recompile()
    return new


def _rank(value: Any) -> int:
    values = value if isinstance(value, (list, tuple)) else [value]
    return max((v.dim() for v in values if isinstance(v, torch.Tensor)), default=0)


class _Rewriter:
    """Copies node by node; ``made`` holds, for a tensor of too many axes, its numbers in row-major order."""

    def __init__(self, module: fx.GraphModule, values: NodeValues, graph: fx.Graph, most: int) -> None:
        self.module, self.values, self.graph, self.most = module, values, graph, most
        self.made: dict[fx.Node, Any] = {}

    def copy(self, node: fx.Node) -> None:
        """Add what a node computes."""
        wide = _rank(self.values.env.get(node)) > self.most or any(
            _rank(self.values.env[n]) > self.most for n in node.all_input_nodes
        )
        # Also the graph's outputs take their own shape: what an app reads is not changed.
        rule = self._rule(node) if wide and node.op != "output" else None
        if rule is None:
            self.made[node] = self.graph.node_copy(node, self._whole)
        else:
            self.made[node] = rule(node)

    def _rule(self, node: fx.Node) -> Callable[[fx.Node], Any] | None:
        name = str(node.target)
        if node.op == "call_module":
            layer = self.module.get_submodule(name)
            return self._on_last if isinstance(layer, _ON_LAST) and len(node.all_input_nodes) == 1 else None
        if node.target is operator.getitem:
            return self._part
        for names, rule in (
            (_SAME_ORDER, self._same_order),
            (_MOVES, self._moved),
            (_PARTS, self._parts),
            (_ALONG, self._along),
            (_PLACED, self._placed),
            (_REDUCED, self._reduced),
            ({"aten.select.int"}, self._selected),
            ({"aten.matmul.default"}, self._product),
            ({"aten.expand.default"}, self._expanded),
            ({"aten.cat.default"}, self._joined),
            ({"aten.stack.default"}, self._stacked),
            ({"aten.scaled_dot_product_attention.default"}, self._attention),
        ):
            if name in names:
                return rule
        is_pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
        return self._pointwise if is_pointwise else None

    def shape(self, node: Any) -> tuple[int, ...]:
        """Sizes of a node of the old graph."""
        return tuple(self.values.env[node].shape)

    def _call(self, function: Any, *arguments: Any, **named: Any) -> fx.Node:
        return self.graph.call_function(function, arguments, named)

    def _reshape(self, node: fx.Node, sizes: Sequence[int]) -> fx.Node:
        return self._call(_ATEN.reshape.default, node, list(sizes))

    def _numbers(self, node: Any, sizes: Sequence[int]) -> fx.Node:
        """An old node's numbers in other sizes."""
        return self._reshape(self.made[node], sizes)

    def _whole(self, node: fx.Node) -> Any:
        """An old node as an operation without a rule takes it."""
        counterpart = self.made[node]
        return self._reshape(counterpart, self.shape(node)) if _rank(self.values.env[node]) > self.most else counterpart

    def _given(self, result: fx.Node, node: fx.Node) -> fx.Node:
        """A result in its own shape, or, with too many axes, in whichever it has."""
        shape = self.shape(node)
        return result if len(shape) > self.most else self._reshape(result, shape)

    def _same_order(self, node: fx.Node) -> fx.Node:
        return self._given(self.made[node.args[0]], node)  # type: ignore[index]

    def _moved(self, node: fx.Node) -> fx.Node:
        """One axis after the other to its place, each as a swap of two neighbouring blocks."""
        sizes = list(self.shape(node.args[0]))
        names = list(range(len(sizes)))
        current = self.made[node.args[0]]  # type: ignore[index]
        order = _order(node, len(sizes))
        place = 0
        while place < len(order):
            at = names.index(order[place])
            run = 1  # axes that stay neighbours move together
            while place + run < len(order) and at + run < len(names) and names[at + run] == order[place + run]:
                run += 1
            if at != place:
                # (before, passed over, moved, behind): four axes at most, whatever the rank.
                blocks = [sizes[:place], sizes[place:at], sizes[at : at + run], sizes[at + run :]]
                grouped = self._reshape(current, [math.prod(block) for block in blocks])
                current = self._call(_ATEN.permute.default, grouped, [0, 2, 1, 3])
                names = names[:place] + names[at : at + run] + names[place:at] + names[at + run :]
                sizes = blocks[0] + blocks[2] + blocks[1] + blocks[3]
            place += run
        return self._given(current, node)

    def _around(self, node: Any, first: int, last: int | None = None) -> fx.Node:
        """(before, axes from first to last, after) of an old node."""
        shape = self.shape(node)
        end = (first if last is None else last) + 1
        return self._numbers(node, [math.prod(shape[:first]), math.prod(shape[first:end]), math.prod(shape[end:])])

    def _axis(self, node: fx.Node, place: int = 1, name: str = "dim", default: int = 0) -> int:
        given = node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
        return int(given) % len(self.shape(node.args[0]))  # type: ignore[arg-type]

    def _selected(self, node: fx.Node) -> fx.Node:
        whole = self._around(node.args[0], self._axis(node))
        return self._given(self._call(_ATEN.select.int, whole, 1, node.args[2]), node)

    def _parts(self, node: fx.Node) -> list[fx.Node]:
        is_unbind = str(node.target) == "aten.unbind.int"
        axis = self._axis(node, 1 if is_unbind else 2)
        whole = self._around(node.args[0], axis)
        values, parts, start = self.values.env[node], [], 0
        for value in values:
            size = 1 if is_unbind else value.shape[axis]
            part = self._call(_ATEN.slice.Tensor, whole, 1, start, start + size)
            start += size
            parts.append(part if value.dim() > self.most else self._reshape(part, value.shape))
        return parts

    def _part(self, node: fx.Node) -> fx.Node:
        source: Any
        place: Any
        source, place = node.args
        whole = self.made[source]
        # The parts are a list where a rule made them, else what an operation that stays gives.
        if isinstance(whole, list):
            return whole[place]  # type: ignore[no-any-return]
        return self._call(operator.getitem, whole, place)

    def _placed(self, node: fx.Node) -> list[fx.Node]:
        both = self._call(node.target, self._around(node.args[0], self._axis(node)), 1)
        parts = [self._call(operator.getitem, both, place) for place in (0, 1)]
        values = self.values.env[node]
        return [p if v.dim() > self.most else self._reshape(p, v.shape) for p, v in zip(parts, values, strict=True)]

    def _along(self, node: fx.Node) -> fx.Node:
        whole = self._around(node.args[0], self._axis(node))
        return self._given(self._call(node.target, whole, 1, *node.args[2:], **node.kwargs), node)

    def _reduced(self, node: fx.Node) -> fx.Node:
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", [])
        rank = len(self.shape(node.args[0]))
        axes = sorted({int(a) % rank for a in ([given] if isinstance(given, int) else given)} or set(range(rank)))  # type: ignore[union-attr,arg-type]
        current, shape = self.made[node.args[0]], list(self.shape(node.args[0]))  # type: ignore[index]
        named = {key: value for key, value in node.kwargs.items() if key == "dtype"}
        # One at a time, since the axes need not be neighbours.
        for axis in reversed(axes):
            sizes = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
            current = self._call(node.target, self._reshape(current, sizes), [1], **named)
            shape[axis] = 1
        return self._given(current, node)

    def _pointwise(self, node: fx.Node) -> fx.Node:
        """Operands broadcast along runs of axes: each run is one axis."""
        shape = self.shape(node)
        operands = [n for n in node.all_input_nodes if isinstance(self.values.env[n], torch.Tensor)]
        aligned = {n: (1,) * (len(shape) - len(self.shape(n))) + self.shape(n) for n in operands}
        runs = _runs(len(shape), list(aligned.values()))

        def few(operand: fx.Node) -> fx.Node:
            # A single number stays without axes: with some it would decide the result's dtype.
            if operand not in aligned or not self.shape(operand):
                return self.made[operand]  # type: ignore[no-any-return]
            return self._numbers(operand, [math.prod(aligned[operand][axis] for axis in run) for run in runs])

        arguments, named = fx.node.map_arg((node.args, node.kwargs), few)
        return self._given(self._call(node.target, *arguments, **named), node)

    def _expanded(self, node: fx.Node) -> fx.Node:
        shape, given = self.shape(node), self.shape(node.args[0])
        aligned = (1,) * (len(shape) - len(given)) + given
        runs = _runs(len(shape), [aligned, shape])
        few = self._numbers(node.args[0], [math.prod(aligned[a] for a in run) for run in runs])
        wide = self._call(_ATEN.expand.default, few, [math.prod(shape[a] for a in run) for run in runs])
        return self._given(wide, node)

    def _product(self, node: fx.Node) -> fx.Node:
        left, right = (self.shape(n) for n in node.args[:2])
        # A vector is a row on the left, and a column on the right; the result's own shape has no such axis.
        left, right = left if len(left) > 1 else (1, *left), right if len(right) > 1 else (*right, 1)
        batch = torch.broadcast_shapes(left[:-2], right[:-2])
        few = []
        for operand, shape in zip(node.args[:2], (left, right), strict=True):
            is_spread = shape[:-2] != batch
            whole = self._broadcast(operand, shape, (*batch, *shape[-2:])) if is_spread else self.made[operand]  # type: ignore[index]
            few.append(self._reshape(whole, (-1, *shape[-2:])))
        return self._given(self._call(_ATEN.matmul.default, *few), node)

    def _broadcast(self, node: Any, given: tuple[int, ...], shape: tuple[int, ...]) -> fx.Node:
        """An old node's numbers, of the sizes that are given, in those of a shape."""
        aligned = (1,) * (len(shape) - len(given)) + given
        runs = _runs(len(shape), [aligned, shape])
        few = self._numbers(node, [math.prod(aligned[a] for a in run) for run in runs])
        return self._call(_ATEN.expand.default, few, [math.prod(shape[a] for a in run) for run in runs])

    def _attention(self, node: fx.Node) -> fx.Node:
        # (batch and heads, L, E); a mask is spread first, as its axes of one cannot be joined with others.
        few = [self._numbers(n, (-1, *self.shape(n)[-2:])) for n in node.args[:3]]
        rest = dict(zip(("attn_mask", "dropout_p", "is_causal"), node.args[3:], strict=False)) | node.kwargs
        mask = rest.get("attn_mask")
        if isinstance(mask, fx.Node):
            query, key = (self.shape(n) for n in node.args[:2])
            spread = self._broadcast(mask, self.shape(mask), (*query[:-1], key[-2]))
            rest["attn_mask"] = self._reshape(spread, (-1, query[-2], key[-2]))
        return self._given(self._call(node.target, *few, **rest), node)

    def _joined(self, node: fx.Node) -> fx.Node:
        parts: Any = node.args[0]
        axis = self._axis_of(node, len(self.shape(node)))
        return self._given(self._call(_ATEN.cat.default, [self._around(p, axis) for p in parts], 1), node)

    def _stacked(self, node: fx.Node) -> fx.Node:
        parts: Any = node.args[0]
        axis, shape = self._axis_of(node, len(self.shape(node))), self.shape(parts[0])
        sizes = [math.prod(shape[:axis]), 1, math.prod(shape[axis:])]
        return self._given(self._call(_ATEN.cat.default, [self._numbers(p, sizes) for p in parts], 1), node)

    def _axis_of(self, node: fx.Node, rank: int) -> int:
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        return int(given) % rank  # type: ignore[arg-type]

    def _on_last(self, node: fx.Node) -> fx.Node:
        layer = self.module.get_submodule(str(node.target))
        own_axes = len(layer.normalized_shape) if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) else 1
        few = self._numbers(node.args[0], (-1, *self.shape(node.args[0])[-own_axes:]))
        return self._given(self.graph.call_module(str(node.target), (few,)), node)


def _order(move: fx.Node, axes: int) -> list[int]:
    if str(move.target) == "aten.permute.default":
        return [int(a) % axes for a in move.args[1]]  # type: ignore[union-attr,arg-type]
    order = list(range(axes))
    one, other = (int(a) % axes for a in move.args[1:3])  # type: ignore[arg-type]
    if str(move.target) == "aten.movedim.int":
        order.insert(other, order.pop(one))
    else:
        order[one], order[other] = other, one
    return order


def _runs(axes: int, shapes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Neighbouring axes along which each shape is either broadcast throughout or not at all.

    >>> _runs(4, [(2, 3, 1, 1), (2, 3, 4, 5)])
    [[0, 1], [2, 3]]
    """
    full = [max(shape[axis] for shape in shapes) for axis in range(axes)]
    runs: list[list[int]] = []
    pattern: tuple[bool, ...] | None = None
    for axis in range(axes):
        axis_pattern = tuple(shape[axis] == full[axis] for shape in shapes)
        if full[axis] == 1 and runs:
            runs[-1].append(axis)  # moves nothing
        elif axis_pattern == pattern:
            runs[-1].append(axis)
        else:
            runs.append([axis])
            pattern = axis_pattern if full[axis] != 1 else None
    return runs

"""A mixture of experts whose rows a program sorts by expert, multiplies group by group and puts back into their order.

No platform multiplies groups, and sorting serves that alone. So the rows stay where they are, and each expert becomes
an ordinary linear layer: it computes every row, and counts for those that chose it, which is the same in every bit but
costs as much as all experts together. Runs in a child process: imports torch.
"""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import fx

from edgewright.errors import UnsupportedError

__all__ = ["GROUPED", "know_grouped_product", "ungroup_experts"]

_ATEN = torch.ops.aten
GROUPED = frozenset({"transformers.grouped_mm_fallback.default"})
"""Of transformers, whose programs name it.

Rows (S, K) in groups, weights (G, K, N) and where each group ends (G,) give rows (S, N).
"""
_SAME_ROWS = {"aten.to.dtype", "aten._to_copy.default", "aten.clone.default", "aten.contiguous.default"}
_REDUCTIONS = {"aten.mean.dim", "aten.sum.dim_IntList"}
_ALONG_AN_AXIS = {
    **dict.fromkeys(("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default"), 2),
    **dict.fromkeys(("aten.slice.Tensor", "aten.select.int", "aten.unsqueeze.default"), 1),
}

"""Operations that leave rows alone when their axis, the argument at that place, is not the first."""


def know_grouped_product() -> None:
    """Let programs be loaded that were exported with transformers' own operator, without that package."""
    # Once in a process: torch refuses a second definition.
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        return
    name = "transformers::grouped_mm_fallback"
    torch.library.define(name, "(Tensor input, Tensor weight, Tensor offs) -> Tensor")
    torch.library.impl(name, "CPU", _grouped_product)
    torch.library.register_fake(name, lambda rows, weight, _: rows.new_empty(rows.shape[0], weight.shape[2]))


def _grouped_product(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    result, start = rows.new_zeros(len(rows), weight.shape[2]), 0
    for group, end in enumerate(ends.tolist()):
        result[start:end] = rows[start:end] @ weight[group]
        start = end
    return result


def ungroup_experts(module: fx.GraphModule) -> None:
    """Replace every product by groups, and the sorting around it, in place.

    Raises:
        UnsupportedError: rows are grouped in a way that is not known here; names the operation.
    """
    # Each turn rewrites one sorting with all products in it, so the nodes are looked for anew.
    while (first := next(_grouped(module.graph), None)) is not None:
        _Sorted(module.graph, first).undo()
        module.graph.eliminate_dead_code()
        module.recompile()


def _grouped(graph: fx.Graph) -> Iterator[fx.Node]:
    return (node for node in graph.nodes if str(node.target) in GROUPED)


class _Sorted:
    """Rows between the sorting by expert and the return to their order, around one product by groups."""

    def __init__(self, graph: fx.Graph, product: fx.Node) -> None:
        self.graph = graph
        self.product = product
        self.ends = _given(product, 2, "offs")
        self.sort = self._sort_of(self.ends)
        self.experts, self.order = self._taken(0), self._taken(1)
        self.inverse = [node for user in self.order for node in user.users if self._inverts(node)]

    def undo(self) -> None:
        """Check all that stands between, then rewrite it."""
        choice = self.sort.args[0]
        # All checks come before the first change: a refusal leaves the graph as it was.
        between = self._between()
        for node in [n for n in between if str(n.target) in GROUPED]:
            self._put(node, self._sum_of_experts(node, choice))
        for order in self.order:
            for user in list(order.users):
                # Rows that were put in order stay where they are.
                if _name(user) == "index.Tensor":
                    self._put(user, user.args[0])
                # order // k: each row stands k times, once for each of its choices.
                elif _name(user) == "floor_divide.default":
                    for taken in list(user.users):
                        self._put(taken, self._repeated(taken, user.args[1]))
        # Rows never left their order, so the way back is dropped.
        for inverse in self.inverse:
            for user in list(inverse.users):
                self._put(user, user.args[0])
        for experts in self.experts:
            self._put(experts, choice)

    def _put(self, node: fx.Node, value: Any) -> None:
        node.replace_all_uses_with(value, propagate_meta=False)

    def _sort_of(self, ends: Any) -> fx.Node:
        """The sorting from which the ends of the groups follow: how many rows chose each expert, added up."""
        # ends = cumsum(histc(sorted choices, bins=G, min=0, max=G - 1))
        node = _same(ends)
        if _name(node) == "cumsum.default" and _name(counts := _same(node.args[0])) == "histc.default":
            experts, low, high = _given(counts, 1, "bins"), _given(counts, 2, "min"), _given(counts, 3, "max")
            chosen = _same(counts.args[0])
            is_count = isinstance(experts, int) and (low, high) == (0, experts - 1)
            if is_count and chosen.target is operator.getitem and chosen.args[1] == 0 and _sorts(chosen.args[0]):
                sort: fx.Node = chosen.args[0]
                return sort
        raise self._refused(node, "its groups are not the counts of sorted choices")

    def _taken(self, place: int) -> list[fx.Node]:
        return [user for user in self.sort.users if user.target is operator.getitem and user.args[1] == place]

    def _inverts(self, node: fx.Node) -> bool:
        """``inverse[order] = 0, 1, 2, …``, or the sorting of the order."""
        if _name(node) == "argsort.default":
            return node.args[0] in self.order and len(node.args) == 1
        if _name(node) != "index_put.default":
            return False
        written, places, values = (cast("Any", argument) for argument in node.args[:3])
        is_whole = _name(written) in {"empty_like.default", "zeros_like.default", "new_empty.default"}
        return is_whole and places[0] in self.order and len(places) == 1 and _name(values) == "arange.default"

    def _between(self) -> list[fx.Node]:
        """The nodes whose rows are in the order of the experts; each must treat every row alone."""
        reached = dict.fromkeys(self._entries())
        pending = list(reached)
        # From where rows are put in order, forward to where they are put back.
        while pending:
            for user in pending.pop().users:
                if user not in reached and not self._leaves(user):
                    reached[user] = None
                    pending.append(user)
        entries = set(self._entries())
        for node in reached:
            if node not in entries and not self._keeps_rows(node, reached):
                raise self._refused(node, "it stands among rows in the order of their experts, and may mix them")
        return list(reached)

    def _entries(self) -> Iterator[fx.Node]:
        """Where rows are taken in the order of the experts, or something of each row's expert."""
        for order in self.order:
            for user in order.users:
                if _name(user) == "index.Tensor" and _indexes(user, order):
                    yield user
                elif _name(user) == "floor_divide.default" and all(_indexes(n, user) for n in user.users):
                    yield from user.users
                elif user not in self.inverse and _name(user) not in {"empty_like.default", "zeros_like.default"}:
                    raise self._refused(user, "it reads the order of the rows")
        for experts in self.experts:
            for user in experts.users:
                if _name(user) == "index.Tensor" and _indexes(user, experts):
                    yield user
                elif not self._counts(user):
                    raise self._refused(user, "it reads the sorted choices")

    def _counts(self, node: fx.Node) -> bool:
        """Part of what the ends of the groups are made of, and of nothing else."""
        # Along the only way to the ends: a second reader would see the choices sorted.
        while _same(self.ends) is not node:
            if str(node.target) not in _SAME_ROWS and _name(node) != "histc.default":
                return False
            if len(node.users) != 1:
                return False
            node = next(iter(node.users))
        return all(str(user.target) in GROUPED or str(user.target) in _SAME_ROWS for user in node.users)

    def _leaves(self, node: fx.Node) -> bool:
        return any(_indexes(node, inverse) for inverse in self.inverse)

    def _keeps_rows(self, node: fx.Node, reached: dict[fx.Node, None]) -> bool:
        name = str(node.target)
        others = [n for n in node.all_input_nodes if n not in reached]
        if name in GROUPED:
            given = _given(node, 0, "input"), _given(node, 2, "offs")
            return given[0] in reached and _same(given[1]) is _same(self.ends) and len(node.all_input_nodes) == 3
        if node.target is operator.getitem or name in _SAME_ROWS:
            return True
        if name in _ALONG_AN_AXIS:
            place = _ALONG_AN_AXIS[name]
            axis = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
            # `unsqueeze` counts its axis in the result, which has one more.
            return (
                not others
                and isinstance(axis, int)
                and axis % (_axes(node.args[0]) + (_name(node) == "unsqueeze.default")) != 0
            )
        axes = {_axes(n) for n in node.all_input_nodes if n in reached}
        if name in _REDUCTIONS:
            # Without axes it is over all of them, the rows too.
            along = _given(node, 1, "dim") or [0]
            return not others and all(axis % _axes(node.args[0]) != 0 for axis in along)
        if name == "aten.linear.default":
            return node.args[0] in reached and axes == {2}
        # What comes from outside must have fewer axes, or it could differ from row to row.
        is_pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
        return is_pointwise and len(axes) == 1 and all(_axes(n) < max(axes) for n in others)

    def _sum_of_experts(self, node: fx.Node, choice: Any) -> fx.Node:
        rows, weight = _given(node, 0, "input"), _given(node, 1, "weight")
        total: fx.Node | None = None
        with self.graph.inserting_before(node):
            for expert in range(weight.meta["val"].shape[0]):
                others = self._call(_ATEN.unsqueeze.default, self._call(_ATEN.ne.Scalar, choice, expert), 1)
                # There is no bias, so a row of zeros adds nothing: each row's sum is of its own expert.
                own = self._call(_ATEN.masked_fill.Scalar, rows, others, 0.0)
                # (K, N) of an expert to the (N, K) of a linear layer.
                held = self._call(_ATEN.transpose.int, self._call(_ATEN.select.int, weight, 0, expert), 0, 1)
                product = self._call(_ATEN.linear.default, own, held)
                product.meta |= {k: v for k, v in node.meta.items() if k != "val"}
                total = product if total is None else self._call(_ATEN.add.Tensor, total, product)
        if total is None:
            raise self._refused(node, "it has no group")
        return total

    def _repeated(self, node: fx.Node, times: Any) -> fx.Node:
        """``rows[order // times]``, in the order that the rows have: each of them so many times."""
        rows: Any = node.args[0]
        width = rows.meta["val"].shape[1]
        with self.graph.inserting_before(node):
            spread = self._call(_ATEN.expand.default, self._call(_ATEN.unsqueeze.default, rows, 1), [-1, times, width])
            return self._call(_ATEN.reshape.default, spread, [-1, width])

    def _call(self, target: Any, *arguments: Any) -> fx.Node:
        call = self.graph.call_function(target, arguments)
        values = fx.node.map_arg(arguments, lambda n: n.meta["val"])
        call.meta["val"] = target(*values)
        return call

    def _refused(self, node: Any, why: str) -> UnsupportedError:
        name = f"{node.target} (node '{node.name}')" if isinstance(node, fx.Node) else str(node)
        return UnsupportedError(
            f"operator {self.product.target} (node '{self.product.name}') multiplies rows by groups, which no platform "
            f"does; {name}: {why}: export the model with experts as loops or batched products "
            "(transformers: experts_implementation='eager' or 'batched_mm')"
        )


def _given(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _same(node: Any) -> Any:
    """Past what only changes the type."""
    while isinstance(node, fx.Node) and str(node.target) in _SAME_ROWS:
        node = node.args[0]
    return node


def _name(node: Any) -> str:
    return str(node.target).removeprefix("aten.") if isinstance(node, fx.Node) else ""


def _axes(node: Any) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, torch.Tensor) else 0


def _sorts(node: Any) -> bool:
    """Ascending, along the one axis that there is."""
    return _name(node) == "sort.default" and len(node.args) == 1 and not node.kwargs and _axes(node.args[0]) == 1


def _indexes(node: fx.Node, places: fx.Node) -> bool:
    """``x[places]``, and nothing more."""
    if _name(node) != "index.Tensor":
        return False
    indices: Sequence[Any] = node.args[1]  # type: ignore[assignment]
    return list(indices) == [places] and node.args[0] is not places

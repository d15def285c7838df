"""Bags of embeddings (``nn.EmbeddingBag``) as embeddings and their sum, mean or maximum, which every platform has.

Runs in a child process: imports torch.
"""

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

__all__ = ["open_bags"]

_ATEN = torch.ops.aten
_BAGS = {"aten.embedding_bag.padding_idx", "aten.embedding_bag.default"}
_SUM, _MEAN = 0, 1  # `mode`; 2 is the maximum


def open_bags(module: fx.GraphModule) -> None:
    """Replace every bag of which nothing but the embeddings is read, in place."""
    for node in list(module.graph.nodes):
        # Of its four results only the embeddings have a counterpart here, so nobody may read the others.
        if str(node.target) not in _BAGS or any(_place(user) != 0 for user in node.users if user.users):
            continue
        with module.graph.inserting_before(node):
            opened = _Bags(module.graph, node).opened()
        if opened is not None:
            for user in list(node.users):
                user.replace_all_uses_with(opened)
                module.graph.erase_node(user)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def _place(user: fx.Node) -> Any:
    return user.args[1] if user.target is operator.getitem else None


class _Bags:
    """B bags of L ids each; where they differ in length, of all N ids, of which each bag counts its own."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph = graph
        self.node = node
        names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
        self.given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)

    def opened(self) -> fx.Node | None:
        """(B, D); None where the size of the bags depends on the batch in a way that is not known here."""
        bags = self._even() or self._listed()
        if bags is None:
            return None
        ids, members = bags
        vectors = self._call(_ATEN.embedding.default, self.given["weight"], ids)  # (B or 1, L, D)
        counted = self._counted(ids, members)
        if self.given.get("mode", _SUM) not in {_SUM, _MEAN}:
            return self._largest(vectors, counted)
        return self._summed(vectors, counted)

    def _even(self) -> tuple[fx.Node, None] | None:
        """The ids (B, L) of bags that begin at every L-th."""
        starts = self.given["offsets"]
        # `arange(0, N, L)` is what torch writes for a matrix of ids.
        if self.given.get("include_last_offset") or str(starts.target) != "aten.arange.start_step":
            return None
        if starts.args[0] != 0 or not isinstance(starts.args[2], int):
            return None
        # The last bag holds whatever ids are left, which need not be L.
        (bags,), (count,) = starts.meta["val"].shape, self.given["indices"].meta["val"].shape
        if not statically_known_true(bags * starts.args[2] == count):
            return None
        return self._call(_ATEN.reshape.default, self.given["indices"], [-1, starts.args[2]]), None

    def _listed(self) -> tuple[fx.Node, fx.Node] | None:
        """All ids (1, N), and which of them are in which bag, (B, N)."""
        starts, (count,) = self.given["offsets"], self.given["indices"].meta["val"].shape
        bags = starts.meta["val"].shape[0]
        is_constant = starts.op == "get_attr" or not starts.all_input_nodes
        if not isinstance(count, int) or not isinstance(bags, int) or not is_constant:
            return None
        places = self._call(_ATEN.arange.default, count)
        # There is one offset more than bags: where the last one ends.
        if self.given.get("include_last_offset"):
            ends = self._call(_ATEN.slice.Tensor, starts, 0, 1, bags)
            starts = self._call(_ATEN.slice.Tensor, starts, 0, 0, bags - 1)
        else:
            last = self._call(_ATEN.full.default, [1], count)
            ends = self._call(_ATEN.cat.default, [self._call(_ATEN.slice.Tensor, starts, 0, 1, bags), last])
        # (B, N): an id is of the bag that has begun at its place and not yet ended.
        began = self._call(_ATEN.ge.Tensor, places, self._call(_ATEN.unsqueeze.default, starts, 1))
        lasts = self._call(_ATEN.lt.Tensor, places, self._call(_ATEN.unsqueeze.default, ends, 1))
        ids = self._call(_ATEN.unsqueeze.default, self.given["indices"], 0)
        return ids, self._call(_ATEN.logical_and.default, began, lasts)

    def _counted(self, ids: fx.Node, members: fx.Node | None) -> fx.Node | None:
        """Which ids count for a bag: its own but for the padding, (B, L, 1); None for all."""
        padding = self.given.get("padding_idx")
        real = None if padding is None or padding < 0 else self._call(_ATEN.ne.Scalar, ids, padding)
        if real is not None and members is not None:
            real = self._call(_ATEN.logical_and.default, real, members)
        counted = members if real is None else real
        return None if counted is None else self._call(_ATEN.unsqueeze.default, counted, -1)

    def _summed(self, vectors: fx.Node, counted: fx.Node | None) -> fx.Node:
        is_mean, dtype = self.given.get("mode", _SUM) == _MEAN, vectors.meta["val"].dtype
        weights = self.given.get("per_sample_weights")
        if weights is not None:
            shape = [-1, *vectors.meta["val"].shape[1:2], 1]
            vectors = self._call(_ATEN.mul.Tensor, vectors, self._call(_ATEN.reshape.default, weights, shape))
        if counted is None:
            return self._call((_ATEN.mean.dim if is_mean else _ATEN.sum.dim_IntList), vectors, [1])
        taken = self._call(_ATEN.to.dtype, counted, dtype)
        total = self._call(_ATEN.sum.dim_IntList, self._call(_ATEN.mul.Tensor, vectors, taken), [1])
        if not is_mean:
            return total
        # An empty bag has the mean 0 in torch.
        count = self._call(_ATEN.clamp.default, self._call(_ATEN.sum.dim_IntList, taken, [1]), 1)
        return self._call(_ATEN.div.Tensor, total, count)

    def _largest(self, vectors: fx.Node, counted: fx.Node | None) -> fx.Node:
        """What does not count is the smallest of all, not minus infinity: in 8 bits that would take the whole range."""
        if counted is None:
            return self._call(_ATEN.amax.default, vectors, [1])
        least = self._call(_ATEN.amin.default, vectors, [1], True)
        largest = self._call(_ATEN.amax.default, self._call(_ATEN.where.self, counted, vectors, least), [1])
        # An empty bag has the maximum 0, too.
        taken = self._call(_ATEN.to.dtype, self._call(_ATEN.any.dim, counted, 1), largest.meta["val"].dtype)
        return self._call(_ATEN.mul.Tensor, largest, taken)

    def _call(self, target: Any, *arguments: Any) -> fx.Node:
        call = self.graph.call_function(target, arguments)
        # What it was in the user's code stays known; shape and dtype are the new call's own.
        call.meta = {key: value for key, value in self.node.meta.items() if key != "val"}
        call.meta["val"] = target(*fx.node.map_arg(arguments, lambda n: n.meta["val"]))
        return call

"""Reductions, sorting, and reading by index."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgewright.errors import UnsupportedError
from edgewright.export.mil_operators.arguments import Arguments

__all__ = ["OPERATORS"]


def _over_axes(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Arguments], Tensor]:
    def reduce(a: Arguments) -> Tensor:
        x = a.tensor("x")
        return function(x, a.ints("axes", list(range(x.dim()))), a.flag("keep_dims"))

    return reduce


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    # Of whole numbers in float64, which holds all of int32; the evaluator cuts it to the whole number that is declared.
    return (x if x.is_floating_point() else x.double()).mean(axes, keepdim=keep)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    # torch multiplies along one axis at a time; from the last on, so that the others keep their numbers.
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Tensor]) -> Callable[[Arguments], Tensor]:
    return lambda a: function(a.tensor("x"), a.integer("axis", -1), a.flag("keep_dims"))


def _indices(a: Arguments, x: Tensor, axis: int) -> Tensor:
    indices = a.tensor("indices").long()
    return torch.where(indices < 0, indices + x.shape[axis], indices)


def _gather(a: Arguments) -> Tensor:
    x, axis, batch = a.tensor("x"), a.integer("axis", 0), a.integer("batch_dims", 0)
    axis %= x.dim()
    indices = _indices(a, x, axis)
    if batch:
        if batch != 1:
            raise UnsupportedError("the Core ML operator 'gather' with two or more batch axes is not evaluated")
        # One row of the batch at a time: without their first axis, the others move up by one.
        rows = (row.index_select(axis - 1, i.reshape(-1)) for row, i in zip(x, indices, strict=True))
        shape = (*x.shape[1:axis], *indices.shape[1:], *x.shape[axis + 1 :])
        return torch.stack([row.reshape(shape) for row in rows])
    return x.index_select(axis, indices.reshape(-1)).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_along_axis(a: Arguments) -> Tensor:
    x, axis = a.tensor("x"), a.integer("axis", 0)
    return x.gather(axis, _indices(a, x, axis))


def _gather_nd(a: Arguments) -> Tensor:
    x, indices = a.tensor("x"), a.tensor("indices").long()
    if a.integer("batch_dims", 0):
        raise UnsupportedError("the Core ML operator 'gather_nd' with batch axes is not evaluated")
    return x[tuple(indices.unbind(-1))]


def _topk(a: Arguments) -> list[Tensor]:
    values, indices = a.tensor("x").topk(a.integer("k", 1), a.integer("axis", -1), largest=not a.flag("ascending"))
    # A program may declare the values alone.
    return [values, indices][: a.results]


def _argsort(a: Arguments) -> Tensor:
    return torch.argsort(a.tensor("x"), dim=a.integer("axis", -1), descending=not a.flag("ascending"), stable=True)


OPERATORS = {
    "reduce_sum": _over_axes(lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype)),
    "reduce_mean": _over_axes(_mean),
    "reduce_max": _over_axes(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "reduce_min": _over_axes(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "reduce_prod": _over_axes(_prod),
    "reduce_l1_norm": _over_axes(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "reduce_l2_norm": _over_axes(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt()),
    "reduce_sum_square": _over_axes(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "reduce_log_sum": _over_axes(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "reduce_log_sum_exp": _over_axes(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "reduce_argmax": _arg(torch.argmax),
    "reduce_argmin": _arg(torch.argmin),
    "argsort": _argsort,
    "topk": _topk,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "non_zero": lambda a: a.tensor("x").nonzero(),
}

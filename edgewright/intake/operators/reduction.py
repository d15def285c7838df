"""Sums, extremes and orders along axes.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from collections.abc import Callable
from typing import Any

import torch

from edgewright.intake.builder import Builder, Op, Operand, Result, operand, refuse, tensor
from edgewright.intake.operators.shape import axes_of

__all__ = ["HANDLERS"]


def _reduction(reduce: Callable[[Builder, Operand, list[int], bool], Operand]) -> Callable[[Builder, Op], Result]:
    """A Reduce operator: axes as an attribute in old opsets, as an input in new ones."""

    def handler(b: Builder, op: Op) -> Result:
        x = operand(op, 0)
        axes = axes_of(op, 1, b.rank(x))
        nothing, keep = bool(op.get("noop_with_empty_axes", 0)), bool(op.get("keepdims", 1))
        if not axes:
            if nothing:
                return x
            axes = list(range(b.rank(x)))
        return reduce(b, x, axes, keep)

    return handler


def _sum(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    # dtype, since torch sums integers in int64.
    return b.call(torch.sum, x, axes, keep, dtype=b.dtype(x)) if axes else x


def _mean(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    if b.dtype(x).is_floating_point:
        return b.call(torch.mean, x, axes, keep)
    # torch has no mean of integers; ONNX's is whole.
    total = _sum(b, x, axes, keep)
    count = 1
    for axis in axes:
        count = count * b.shape(x)[axis]
    return b.call(torch.div, total, count, rounding_mode="trunc")


def _prod(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    # torch.prod takes one axis at a time; from the last on, so that the numbers of those before it stay.
    for axis in sorted(axes, reverse=True):
        x = b.call(torch.prod, x, axis, keep, dtype=b.dtype(x))
    return x


def _extreme(function: Callable[..., Any]) -> Callable[[Builder, Operand, list[int], bool], Operand]:
    def reduce(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
        # torch refuses the extreme of nothing, which ONNX defines.
        if not any(b.shape(x)[axis] == 0 for axis in axes):
            return b.call(function, x, axes, keep) if axes else x
        sizes = [1 if i in axes else s for i, s in enumerate(b.shape(x)) if keep or i not in axes]
        nothing = _least(b.dtype(x)) if function is torch.amax else _greatest(b.dtype(x))
        return nothing.expand(sizes)

    return reduce


def _least(dtype: torch.dtype) -> torch.Tensor:
    """What the maximum of nothing is."""
    if dtype == torch.bool:
        return torch.tensor(False)
    return torch.tensor(-float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min, dtype=dtype)


def _greatest(dtype: torch.dtype) -> torch.Tensor:
    """What the minimum of nothing is."""
    if dtype == torch.bool:
        return torch.tensor(True)
    return torch.tensor(float("inf") if dtype.is_floating_point else torch.iinfo(dtype).max, dtype=dtype)


def _sum_square(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    return _sum(b, b.call(torch.mul, x, x), axes, keep)


def _l1(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    return _sum(b, b.call(torch.abs, x), axes, keep)


def _l2(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    return b.call(torch.sqrt, _sum_square(b, x, axes, keep))


def _log_sum(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    return b.call(torch.log, _sum(b, x, axes, keep))


def _log_sum_exp(b: Builder, x: Operand, axes: list[int], keep: bool) -> Operand:
    return b.call(torch.logsumexp, x, axes, keep) if axes else x


def arg_extreme(b: Builder, op: Op) -> Result:
    """ArgMax and ArgMin: the first of equals, or the last when asked."""
    x, function = operand(op, 0), torch.argmax if op.kind == "ArgMax" else torch.argmin
    axis, keep = op.get("axis", 0) % b.rank(x), bool(op.get("keepdims", 1))
    if not op.get("select_last_index", 0):
        return b.call(function, x, axis, keep)
    total = b.shape(x)[axis]
    if not isinstance(total, int):
        raise refuse(op, "select_last_index along the batch axis")
    # The last of equals is the first from behind.
    return b.call(torch.sub, total - 1, b.call(function, b.call(torch.flip, x, [axis]), axis, keep))


def cumulative_sum(b: Builder, op: Op) -> Result:
    """CumSum: from the front or the back, with or without the element itself."""
    x, axis = operand(op, 0), int(tensor(op, 1))
    flipped = bool(op.get("reverse", 0))
    x = b.call(torch.flip, x, [axis]) if flipped else x
    total = b.call(torch.cumsum, x, axis, dtype=b.dtype(x))
    total = b.call(torch.sub, total, x) if op.get("exclusive", 0) else total
    return b.call(torch.flip, total, [axis]) if flipped else total


def top_k(b: Builder, op: Op) -> Result:
    """TopK; the lower index wins among equal integers."""
    x = operand(op, 0)
    count = op.get("k") if op.opset < 10 else int(tensor(op, 1).reshape(-1)[0])
    axis, largest = op.get("axis", -1) % b.rank(x), bool(op.get("largest", 1))
    if b.dtype(x).is_floating_point:
        # The targets convert this one and no sort; among equal floats, which are rare, any may win.
        return b.several(2, torch.topk, x, count, axis, largest, True)
    values, order = b.several(2, torch.sort, x, stable=True, dim=axis, descending=largest)
    index = (slice(None),) * axis + (slice(0, count),)
    import operator

    return b.call(operator.getitem, values, index), b.call(operator.getitem, order, index)


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "ReduceSum": _reduction(_sum),
    "ReduceMean": _reduction(_mean),
    "ReduceProd": _reduction(_prod),
    "ReduceMax": _reduction(_extreme(torch.amax)),
    "ReduceMin": _reduction(_extreme(torch.amin)),
    "ReduceSumSquare": _reduction(_sum_square),
    "ReduceL1": _reduction(_l1),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ArgMax": arg_extreme,
    "ArgMin": arg_extreme,
    "CumSum": cumulative_sum,
    "TopK": top_k,
}

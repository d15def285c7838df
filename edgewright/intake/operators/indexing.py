"""Scattering, masks and positions.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from edgewright.intake.builder import Builder, Op, Operand, Result, is_static, operand, refuse, tensor
from edgewright.intake.operators.shape import reshaped

__all__ = ["HANDLERS"]

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(b: Builder, indices: Operand, total: Any) -> Operand:
    """Negative indices count from the end."""
    # Known to be positive: nothing is left to do at run time.
    if isinstance(indices, torch.Tensor) and not (indices < 0).any():
        return indices.long()
    long = b.call(torch.Tensor.to, indices, torch.int64)
    return b.call(torch.where, b.call(torch.lt, long, 0), b.call(torch.add, long, total), long)


def scatter_elements(b: Builder, op: Op) -> Result:
    """ScatterElements (Scatter before opset 11)."""
    x, indices, updates = (operand(op, i) for i in range(3))
    axis = op.get("axis", 0) % b.rank(x)
    # Negative indices cannot be counted from an end that is not known.
    if not isinstance(b.shape(x)[axis], int):
        raise refuse(op, "along the batch axis")
    places = _wrapped(b, indices, b.shape(x)[axis])
    reduction = op.get("reduction", "none")
    if reduction == "none":
        return b.call(torch.scatter, x, axis, places, updates)
    return b.call(torch.scatter_reduce, x, axis, places, updates, _REDUCTIONS[reduction])


def scatter_nd(b: Builder, op: Op) -> Result:
    """ScatterND, by positions in the flattened tensor."""
    x, indices, updates = (operand(op, i) for i in range(3))
    shape, depth = b.shape(x), b.shape(indices)[-1]
    if not is_static(shape) or not is_static(b.shape(indices)):
        raise refuse(op, "free sizes")
    flat = _flat_positions(b, indices, shape, depth)
    # Leading axes become one, so that a position is one number; what follows them is copied as a row.
    inner = int(np.prod(shape[depth:]))
    table = b.call(torch.reshape, x, [int(np.prod(shape[:depth])), inner])
    rows = b.call(torch.reshape, updates, [-1, inner])
    places = b.call(torch.Tensor.expand, b.call(torch.reshape, flat, [-1, 1]), [-1, inner])
    reduction = op.get("reduction", "none")
    if reduction == "none":
        result = b.call(torch.scatter, table, 0, places, rows)
    else:
        result = b.call(torch.scatter_reduce, table, 0, places, rows, _REDUCTIONS[reduction])
    return b.call(torch.reshape, result, list(shape))


def gather_nd(b: Builder, op: Op) -> Result:
    """GatherND, by positions in the flattened tensor."""
    x, indices = operand(op, 0), operand(op, 1)
    batches, depth = op.get("batch_dims", 0), b.shape(indices)[-1]
    shape, wanted = b.shape(x), b.shape(indices)
    if not is_static(shape) or not is_static(wanted):
        raise refuse(op, "free sizes")
    count = int(np.prod(shape[:batches]))
    inner = shape[batches + depth :]
    rows = int(np.prod(shape[batches : batches + depth]))
    flat = _flat_positions(b, indices, shape[batches:], depth)
    flat = b.call(torch.reshape, flat, [count, -1])
    # Each batch looks only into its own rows.
    flat = b.call(torch.add, flat, torch.arange(count).reshape(-1, 1) * rows)
    table = b.call(torch.reshape, x, [count * rows, int(np.prod(inner))])
    slices = b.call(torch.index_select, table, 0, b.call(torch.reshape, flat, [-1]))
    return b.call(torch.reshape, slices, [*wanted[:-1], *inner])


def _flat_positions(b: Builder, indices: Operand, shape: Any, depth: int) -> Operand:
    """(..., depth) positions on the first axes as one number each."""
    sizes = torch.tensor([int(s) for s in shape[:depth]])
    strides = torch.tensor([int(np.prod(shape[i + 1 : depth])) for i in range(depth)])
    return b.call(torch.sum, b.call(torch.mul, _wrapped(b, indices, sizes), strides), [-1])


def one_hot(b: Builder, op: Op) -> Result:
    """OneHot of a known depth."""
    indices, depth, values = operand(op, 0), int(tensor(op, 1).reshape(-1)[0]), operand(op, 2)
    rank = b.rank(indices)
    axis = op.get("axis", -1) % (rank + 1)
    places = _wrapped(b, indices, depth)
    wide = b.call(torch.unsqueeze, places, axis)
    hit = b.call(torch.eq, wide, torch.arange(depth).reshape([-1 if i == axis else 1 for i in range(rank + 1)]))
    off, on = (b.call(torch.select, values, 0, i) for i in (0, 1))
    return b.call(torch.where, hit, on, off)


def triangle(b: Builder, op: Op) -> Result:
    """Trilu: the upper or the lower triangle."""
    x = operand(op, 0)
    shift = op.input(1)
    offset = 0 if shift is None else int(tensor(op, 1).reshape(-1)[0])
    rows, columns = b.shape(x)[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise refuse(op, "free sizes")
    # The mask is a constant: only the choice is left to run time.
    ones = torch.ones((rows, columns), dtype=torch.bool)
    mask = torch.triu(ones, offset) if op.get("upper", 1) else torch.tril(ones, offset)
    return b.call(torch.where, mask, x, torch.zeros((), dtype=b.dtype(x)))


def eye_like(b: Builder, op: Op) -> Result:
    """EyeLike of a known shape."""
    x = operand(op, 0)
    rows, columns = b.shape(x)
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise refuse(op, "free sizes")
    dtype = op.get("dtype") or b.dtype(x)
    ones = torch.ones((rows, columns), dtype=torch.bool)
    return (torch.tril(ones, op.get("k", 0)) & torch.triu(ones, op.get("k", 0))).to(dtype)


def non_zero(b: Builder, op: Op) -> Result:
    """NonZero of a constant; of anything else the number of results would depend on the data."""
    # As the specification has it: (axes, count), not (count, axes).
    return torch.nonzero(tensor(op, 0)).t().contiguous()


def compress(b: Builder, op: Op) -> Result:
    """Compress by a known condition."""
    x, indices = operand(op, 0), torch.nonzero(tensor(op, 1)).reshape(-1)
    if op.get("axis") is None:
        return b.call(torch.index_select, reshaped(b, op, x, [-1]), 0, indices)
    return b.call(torch.index_select, x, op.get("axis") % b.rank(x), indices)


def cumulative_product(b: Builder, op: Op) -> Result:
    """CumProd: from the front or the back, with or without the element itself."""
    x, axis = operand(op, 0), int(tensor(op, 1))
    axis = axis % b.rank(x)
    size = b.shape(x)[axis]
    if not isinstance(size, int):
        raise refuse(op, "along the batch axis")
    x = b.call(torch.flip, x, [axis]) if op.get("reverse", 0) else x
    if op.get("exclusive", 0):
        # Shifted by one: a 1 in front, the last element out.
        pairs = [0, 0] * (b.rank(x) - axis - 1) + [1, -1]
        x = b.call(functional.pad, x, pairs, "constant", 1)
    result = b.call(torch.cumprod, x, axis, dtype=b.dtype(x))
    return b.call(torch.flip, result, [axis]) if op.get("reverse", 0) else result


def reverse_sequence(b: Builder, op: Op) -> Result:
    """ReverseSequence: the first ``sequence_lens`` steps of each row backwards, the rest as they are."""
    x, lengths = operand(op, 0), operand(op, 1)
    batch_axis, time_axis = op.get("batch_axis", 1), op.get("time_axis", 0)
    steps = b.shape(x)[time_axis]
    if not isinstance(steps, int):
        raise refuse(op, "along the batch axis")
    # Whole sequences backwards are one flip.
    if isinstance(lengths, torch.Tensor) and bool((lengths == steps).all()):
        return b.call(torch.flip, x, [time_axis])
    places = torch.arange(steps).reshape([-1 if i == time_axis else 1 for i in range(2)])
    each = b.call(torch.reshape, lengths, [-1 if i == batch_axis else 1 for i in range(2)])
    mirrored = b.call(torch.sub, b.call(torch.sub, each, 1), places)
    # Step t takes step length - 1 - t while t is in the sequence, else itself.
    at = b.call(torch.where, b.call(torch.lt, places, each), mirrored, places)
    at = b.call(torch.reshape, at, [1 if i > 1 else -1 if i == batch_axis else steps for i in range(b.rank(x))])
    inner = [1 if i < 2 else size for i, size in enumerate(b.shape(x))]
    wide = b.call(torch.Tensor.expand, at, [-1, -1, *inner[2:]]) if b.rank(x) > 2 else at
    return b.call(torch.gather, x, time_axis, wide)


def determinant(b: Builder, op: Op) -> Result:
    """Det."""
    return b.call(torch.det, operand(op, 0))


def einsum(b: Builder, op: Op) -> Result:
    """Einsum."""
    return b.call(torch.einsum, op.get("equation").replace(" ", ""), *(operand(op, i) for i in range(len(op.inputs))))


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "ScatterElements": scatter_elements,
    "Scatter": scatter_elements,
    "ScatterND": scatter_nd,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Trilu": triangle,
    "EyeLike": eye_like,
    "NonZero": non_zero,
    "Compress": compress,
    "CumProd": cumulative_product,
    "ReverseSequence": reverse_sequence,
    "Det": determinant,
    "Einsum": einsum,
}

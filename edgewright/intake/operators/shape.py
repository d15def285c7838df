"""Moving data without computing on it, and sizes that may depend on the batch.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from typing import Any

import numpy as np
import sympy
import torch
from torch.nn import functional

from edgewright.intake.builder import (
    Argument,
    Builder,
    Dims,
    Op,
    Operand,
    Result,
    is_static,
    multiple,
    operand,
    refuse,
    tensor,
)

__all__ = ["HANDLERS", "axes_of", "dims_or_constant", "integers"]


def integers(op: Op, index: int, attribute: str | None = None) -> list[Any] | None:
    """A list of integers, of an attribute (old opsets) or an input; None where it is left out."""
    if attribute is not None and op.get(attribute) is not None:
        given = op.get(attribute)
        return list(given) if isinstance(given, (list, tuple)) else [given]
    value = op.input(index)
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return list(value.reshape(-1))
    return [int(v) for v in tensor(op, index).reshape(-1).tolist()]


def axes_of(op: Op, index: int, rank: int) -> list[int] | None:
    """Axes of an attribute or an input, counted from the front."""
    axes = integers(op, index, "axes")
    return None if axes is None else [a % rank for a in axes]


def dims_or_constant(sizes: Any) -> Argument:
    """Sizes as a constant where they are known, else as `Dims`."""
    if isinstance(sizes, np.ndarray) and sizes.dtype == bool:
        return torch.from_numpy(sizes)
    array = np.asarray(sizes, dtype=object)
    if is_static([v if isinstance(v, torch.SymInt) else int(v) for v in array.reshape(-1)]):
        return torch.tensor(array.astype(np.int64))
    return array


def shape(b: Builder, op: Op) -> Result:
    """Shape."""
    return dims_or_constant(_object(b.shape(operand(op, 0))[slice(op.get("start", 0), op.get("end"))]))


def size(b: Builder, op: Op) -> Result:
    """Size."""
    # The product may depend on the batch, so no math.prod of integers.
    count: Any = 1
    for s in b.shape(operand(op, 0)):
        count = count * s
    return dims_or_constant(np.array(count, dtype=object))


def reshape(b: Builder, op: Op) -> Result:
    """Reshape: the free batch size becomes -1, the one size that torch works out itself."""
    x, wanted = operand(op, 0), integers(op, 1, "shape")
    if wanted is None:
        raise refuse(op, "no shape")
    if not op.get("allowzero", 0):
        # 0 keeps the input's own size, unless allowzero.
        wanted = [b.shape(x)[i] if isinstance(w, int) and w == 0 else w for i, w in enumerate(wanted)]
    return reshaped(b, op, x, wanted)


def reshaped(b: Builder, op: Op, x: Operand, wanted: list[Any]) -> Operand:
    """Give ``x`` a shape of which at most one size may depend on the batch."""
    if isinstance(x, torch.Tensor) and is_static(wanted):
        return x.reshape(wanted)
    # torch works the shape out with the free size: what it says is free becomes -1.
    got = b.under_fakes(torch.reshape, b.fake(x), wanted).shape
    free = [i for i, s in enumerate(got) if isinstance(s, torch.SymInt)]
    if len(free) > 1:
        raise refuse(op, "more than one size depends on the batch")
    if free == [0] and len(got) == 2 and b.rank(x) > 2 and str(got[0]) == str(b.shape(x)[0]):
        # Exporters write a flatten as a reshape; the number of columns must follow when channels are pruned.
        return b.call(torch.flatten, x, 1)
    return b.call(torch.reshape, x, [-1 if i in free else int(s) for i, s in enumerate(got)])


def flatten(b: Builder, op: Op) -> Result:
    """Flatten to a matrix."""
    x = operand(op, 0)
    rank, axis = b.rank(x), op.get("axis", 1)
    # -1 counts from the end; rank itself stands for "after the last".
    axis = axis + rank if axis < 0 else axis
    if axis == 1 and rank >= 2:
        return b.call(torch.flatten, x, 1)
    rows: Any = 1
    for s in b.shape(x)[:axis]:
        rows = rows * s
    columns: Any = 1
    for s in b.shape(x)[axis:]:
        columns = columns * s
    return reshaped(b, op, x, [rows, columns])


def transpose(b: Builder, op: Op) -> Result:
    """Transpose."""
    x = operand(op, 0)
    return b.call(torch.permute, x, list(op.get("perm") or range(b.rank(x) - 1, -1, -1)))


def squeeze(b: Builder, op: Op) -> Result:
    """Squeeze."""
    x = operand(op, 0)
    axes = axes_of(op, 1, b.rank(x))
    if axes is None:
        # An axis of the free size is not dropped, even if the batch were 1.
        axes = [i for i, s in enumerate(b.shape(x)) if isinstance(s, int) and s == 1]
    for axis in sorted(axes, reverse=True):
        x = b.call(torch.squeeze, x, axis)
    return x


def unsqueeze(b: Builder, op: Op) -> Result:
    """Unsqueeze."""
    x, axes = operand(op, 0), integers(op, 1, "axes")
    if axes is None:
        raise refuse(op, "no axes")
    rank = b.rank(x) + len(axes)
    # From the front: each new axis shifts those behind it.
    for axis in sorted(a % rank for a in axes):
        x = b.call(torch.unsqueeze, x, axis)
    return x


def concat(b: Builder, op: Op) -> Result:
    """Concat."""
    parts = [operand(op, i) for i in range(len(op.inputs))]
    axis = op.get("axis", 1)
    return parts[0] if len(parts) == 1 else b.call(torch.cat, parts, axis)


def split(b: Builder, op: Op) -> Result:
    """Split into given or equal sizes; where they do not divide evenly the last one is smaller."""
    x = operand(op, 0)
    axis = op.get("axis", 0) % b.rank(x)
    sizes, total = integers(op, 1, "split"), b.shape(x)[axis]
    if sizes is None:
        if not isinstance(total, int):
            raise refuse(op, "along the batch axis")
        count = op.get("num_outputs", len(op.outputs))
        chunk = -(-total // count)
        sizes = [max(min(chunk, total - i * chunk), 0) for i in range(count)]
    return b.several(len(sizes), torch.split, x, sizes, axis)


_TO_THE_END = 10**9
"""Exporters write the end of a free axis as a number that no axis reaches: jax this, others the largest."""


def slice_(b: Builder, op: Op) -> Result:
    """Slice: attributes before opset 10, inputs since; a negative step walks backwards."""
    x = operand(op, 0)
    starts, ends = integers(op, 1, "starts"), integers(op, 2, "ends")
    if starts is None or ends is None:
        raise refuse(op, "no starts or ends")
    axes = axes_of(op, 3, b.rank(x)) or list(range(len(starts)))
    steps = integers(op, 4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _sliced(b, op, x, axis, (start, end, step))
    return x


def _sliced(b: Builder, op: Op, x: Operand, axis: int, limits: tuple[Any, Any, int]) -> Operand:
    start, end, step = limits
    total = b.shape(x)[axis]
    if not isinstance(total, int):
        if isinstance(start, int) and start == 0 and step == 1 and _reaches(end, total):
            return x
        raise refuse(op, "along the batch axis")
    # Forwards Python's slices clamp bounds as ONNX does.
    start, end, step = (
        slice(int(start), int(end), step).indices(total) if step > 0 else _backwards(start, end, step, total)
    )
    if (start, end, step) == (total - 1, -1, -1):
        return b.call(torch.flip, x, [axis])
    # torch slices do not walk backwards: positions instead.
    if step < 0:
        chosen = torch.tensor(list(range(start, end, step)), dtype=torch.int64)
        return b.call(torch.index_select, x, axis, chosen)
    if (start, end, step) == (0, total, 1):
        return x
    # Never below the start: an empty slice, not a negative one.
    index = (slice(None),) * axis + (slice(start, max(start, end), step),)
    return _index(b, x, index)


def _reaches(end: Any, total: torch.SymInt) -> bool:
    """Whether an end is that of an axis, or behind it, for every batch."""
    if not isinstance(end, torch.SymInt):
        return bool(end >= _TO_THE_END)
    # Sizes that depend on the batch differ from each other: n rows are half of 2 n.
    behind = sympy.expand(end.node.expr - total.node.expr)
    return bool(behind.is_number and behind >= 0)


def _index(b: Builder, x: Operand, index: tuple[Any, ...]) -> Operand:
    import operator

    return b.call(operator.getitem, x, index)


def _backwards(start: int, end: int, step: int, total: int) -> tuple[int, int, int]:
    """ONNX clamps: a very negative end stands for 'before the first'."""
    start = min(max(start + total if start < 0 else start, -1), total - 1)
    end = min(max(end + total if end < 0 else end, -1), total - 1)
    return start, end, step


def gather(b: Builder, op: Op) -> Result:
    """Gather along one axis; constant indices become index_select."""
    x, indices = operand(op, 0), operand(op, 1)
    axis = op.get("axis", 0) % b.rank(x)
    total = b.shape(x)[axis]
    if isinstance(indices, torch.Tensor):
        if (indices < 0).any():
            if not isinstance(total, int):
                raise refuse(op, "negative indices along the batch axis")
            indices = torch.where(indices < 0, indices + total, indices)
        if indices.ndim == 0:
            return b.call(torch.select, x, axis, int(indices))
        if indices.ndim == 1:
            return b.call(torch.index_select, x, axis, indices.long())
    # A table of vectors is an embedding, which every target has; its weight may be quantized.
    elif isinstance(x, torch.Tensor) and axis == 0 and x.ndim == 2 and x.is_floating_point():
        return b.call(functional.embedding, _wrapped(b, indices, total), x)
    return _gathered(b, op, x, indices, axis)


def _gathered(b: Builder, op: Op, x: Operand, indices: Operand, axis: int) -> Operand:
    total, shape_x, shape_i = b.shape(x)[axis], b.shape(x), b.shape(indices)
    if not isinstance(indices, torch.Tensor):
        indices = _wrapped(b, indices, total)
    # index_select takes one axis of indices; their own axes come back by the reshape.
    flat = b.call(torch.reshape, indices, [-1])
    taken = b.call(torch.index_select, x, axis, flat)
    return reshaped(b, op, taken, [*shape_x[:axis], *shape_i, *shape_x[axis + 1 :]])


def _wrapped(b: Builder, indices: Operand, total: Any) -> Operand:
    """Negative indices count from the end."""
    if not isinstance(total, int):
        return indices
    zero = torch.zeros((), dtype=b.dtype(indices))
    return b.call(torch.where, b.call(torch.lt, indices, zero), b.call(torch.add, indices, total), indices)


def gather_elements(b: Builder, op: Op) -> Result:
    """GatherElements."""
    x, indices = operand(op, 0), operand(op, 1)
    axis = op.get("axis", 0) % b.rank(x)
    wrapped = b.call(torch.Tensor.to, _wrapped(b, indices, b.shape(x)[axis]), torch.int64)
    return b.call(torch.gather, x, axis, wrapped)


def expand(b: Builder, op: Op) -> Result:
    """Expand: like broadcasting, sizes of 1 in the wish leave the input's own."""
    x, wanted = operand(op, 0), integers(op, 1)
    if wanted is None:
        raise refuse(op, "no shape")
    own = b.shape(x)
    own = (1,) * (len(wanted) - len(own)) + own
    wanted = [1] * (len(own) - len(wanted)) + wanted
    for _ in range(len(own) - b.rank(x)):
        x = b.call(torch.unsqueeze, x, 0)
    sizes = []
    for axis, (has, wish) in enumerate(zip(own, wanted, strict=True)):
        # -1 leaves an axis as it is.
        if isinstance(has, torch.SymInt) or (isinstance(wish, int) and wish == 1) or has == wish:
            sizes.append(-1)
        elif isinstance(wish, torch.SymInt):
            x = _stretched(b, x, axis, wish)
            sizes.append(-1)
        else:
            sizes.append(wish)
    return x if all(s == -1 for s in sizes) else b.call(torch.Tensor.expand, x, sizes)


def _stretched(b: Builder, x: Operand, axis: int, size: Any) -> Operand:
    """An axis of 1 as one of the batch's size: not by broadcasting alone, but by adding zeros of that size."""
    zeros = b.filled([size if i == axis else 1 for i in range(b.rank(x))], 0, b.dtype(x))
    return b.call(torch.logical_or if b.dtype(x) == torch.bool else torch.add, x, zeros)


def tile(b: Builder, op: Op) -> Result:
    """Tile; as often as there are rows by stretching a new axis before the one that is repeated."""
    x, repeats = operand(op, 0), integers(op, 1)
    if repeats is None:
        raise refuse(op, "no repeats")
    for axis, count in enumerate(repeats):
        # A count that depends on the batch cannot be an argument of tile.
        if not isinstance(count, int):
            x = _stretched(b, b.call(torch.unsqueeze, x, axis), axis, count)
            sizes = b.shape(x)
            x = reshaped(b, op, x, [*sizes[:axis], count * sizes[axis + 1], *sizes[axis + 2 :]])
    fixed = [count if isinstance(count, int) else 1 for count in repeats]
    return x if all(count == 1 for count in fixed) else b.call(torch.tile, x, fixed)


def constant_of_shape(b: Builder, op: Op) -> Result:
    """ConstantOfShape; its first size may be that of the batch."""
    value = op.get("value", torch.zeros(1))
    if isinstance(op.input(0), np.ndarray):
        return b.filled(integers(op, 0) or [], value.reshape(-1)[0].item(), value.dtype)
    return torch.full(tensor(op, 0).tolist(), value.reshape(-1)[0].item(), dtype=value.dtype)


def constant(b: Builder, op: Op) -> Result:
    """Constant."""
    if "value" in op.attributes:
        return op.get("value")  # type: ignore[no-any-return]
    for key, dtype in (("value_float", torch.float32), ("value_floats", torch.float32), ("value_int", torch.int64),
                       ("value_ints", torch.int64)):  # fmt: skip
        if key in op.attributes:
            return torch.tensor(op.get(key), dtype=dtype)
    raise refuse(op, f"attribute {', '.join(op.attributes)}")


def identity(b: Builder, op: Op) -> Result:
    """Identity."""
    return op.input(0)


def range_(b: Builder, op: Op) -> Result:
    """Range of known limits, or of as many numbers as there are rows, or some for each row."""
    limits = [op.input(i) for i in range(3)]
    if any(isinstance(limit, np.ndarray) for limit in limits):
        return _range_of_rows(b, op)
    start, limit, delta = (tensor(op, i) for i in range(3))
    count = max(int(np.ceil((limit.item() - start.item()) / delta.item())), 0)
    return (torch.arange(count) * delta + start).to(start.dtype)


def _range_of_rows(b: Builder, op: Op) -> Operand:
    """Counted by a running sum of ones, since no size is read at run time."""
    start, limit, delta = ((integers(op, i) or [None])[0] for i in range(3))
    if not isinstance(start, int) or not isinstance(delta, int) or not isinstance(limit, torch.SymInt):
        raise refuse(op, "limits that depend on data, or a start that depends on the batch size")
    each = multiple(limit - start, b.rows * delta)
    if each is None:
        raise refuse(op, "so many numbers that they are not as many for each row")
    ones = b.filled([b.rows, each], 1, torch.int64)
    places = b.call(torch.cumsum, b.call(torch.reshape, ones, [-1]), 0)
    return b.call(torch.add, b.call(torch.mul, b.call(torch.sub, places, 1), delta), start)


def pad_(b: Builder, op: Op) -> Result:
    """Pad: constant, reflect, edge or wrap; a negative count crops."""
    x, rank = operand(op, 0), b.rank(operand(op, 0))
    pads = integers(op, 1, "pads") or op.get("paddings")
    axes = axes_of(op, 3, rank) if op.opset >= 18 else None
    axes = axes if axes is not None else list(range(rank))
    if pads is None:
        raise refuse(op, "no pads")
    before, after = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + len(axes)]
    fill = op.input(2)
    number = op.get("value", 0.0) if fill is None else tensor(op, 2).item()
    return _padded(b, op, x, before, after, number)


def _padded(b: Builder, op: Op, x: Operand, before: list[int], after: list[int], fill: float) -> Operand:
    mode, rank = op.get("mode", "constant"), b.rank(x)
    if mode == "constant":
        pairs = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
        while len(pairs) > 2 and pairs[-1] == 0 and pairs[-2] == 0:
            pairs = pairs[:-2]
        return b.call(functional.pad, x, pairs, "constant", fill)
    for axis in range(rank):
        if before[axis] or after[axis]:
            total = b.shape(x)[axis]
            if not isinstance(total, int):
                raise refuse(op, f"{mode} along the batch axis")
            numpy_mode: Any = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode]
            # Cropping first, then padding by what np.pad does to the positions.
            positions = np.arange(total)[max(-before[axis], 0) : total - max(-after[axis], 0)]
            wide = np.pad(positions, (max(before[axis], 0), max(after[axis], 0)), mode=numpy_mode)
            x = b.call(torch.index_select, x, axis, torch.tensor(wide))
    return x


def depth_to_space(b: Builder, op: Op) -> Result:
    """DepthToSpace; the CRD order is torch's pixel_shuffle."""
    x, block = operand(op, 0), op.get("blocksize")
    if op.get("mode", "DCR") == "CRD":
        return b.call(functional.pixel_shuffle, x, block)
    n, c, h, w = b.shape(x)
    # DCR: the block's place goes before the channels, (N, block, block, C', H, W).
    split_up = reshaped(b, op, x, [n, block, block, c // block**2, h, w])
    ordered = b.call(torch.permute, split_up, [0, 3, 4, 1, 5, 2])
    return reshaped(b, op, ordered, [n, c // block**2, h * block, w * block])


def space_to_depth(b: Builder, op: Op) -> Result:
    """SpaceToDepth."""
    x, block = operand(op, 0), op.get("blocksize")
    n, c, h, w = b.shape(x)
    if op.get("mode", "DCR") == "CRD":
        return b.call(functional.pixel_unshuffle, x, block)
    split_up = reshaped(b, op, x, [n, c, h // block, block, w // block, block])
    ordered = b.call(torch.permute, split_up, [0, 3, 5, 1, 2, 4])
    return reshaped(b, op, ordered, [n, c * block**2, h // block, w // block])


def _object(sizes: tuple[Any, ...]) -> Dims:
    array = np.empty(len(sizes), dtype=object)
    array[:] = sizes
    return array


HANDLERS = {
    "Shape": shape,
    "Size": size,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Expand": expand,
    "Tile": tile,
    "ConstantOfShape": constant_of_shape,
    "Constant": constant,
    "Identity": identity,
    "Range": range_,
    "Pad": pad_,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}

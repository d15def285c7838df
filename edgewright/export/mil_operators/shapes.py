"""Operators that move elements, or make them: reshape, slice, concatenate, pad, fill."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from edgewright.errors import UnsupportedError
from edgewright.export.mil_operators.arguments import Arguments

__all__ = ["OPERATORS"]


def _reshape(a: Arguments) -> Tensor:
    x, shape = a.tensor("x"), a.ints("shape")
    # 0 takes over the operand's size, by the specification; of an empty tensor it is the size itself.
    return x.reshape([x.shape[i] if n == 0 and x.numel() else n for i, n in enumerate(shape)])


def _expand_dims(a: Arguments) -> Tensor:
    x, axes = a.tensor("x"), a.ints("axes")
    rank = x.dim() + len(axes)
    # Axes are those of the result: inserted in ascending order, each is where it belongs.
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(a: Arguments) -> Tensor:
    x = a.tensor("x")
    return x.squeeze(tuple(a.ints("axes"))) if "axes" in a else x.squeeze()


def _slice_by_index(a: Arguments) -> Tensor:
    x = a.tensor("x")
    begins, ends, off = a.ints("begin"), a.ints("end"), [0] * x.dim()
    strides = a.ints("stride", [1] * x.dim())
    begin_mask, end_mask, squeeze_mask = (a.ints(f"{side}_mask", off) for side in ("begin", "end", "squeeze"))
    # From the last axis on: one that is squeezed away does not move those before it.
    for axis in reversed(range(x.dim())):
        if squeeze_mask[axis]:
            x = x.select(axis, begins[axis])
            continue
        begin = None if begin_mask[axis] else begins[axis]
        end = None if end_mask[axis] else ends[axis]
        # By a range of Python, since torch's slices take no negative stride.
        chosen = range(x.shape[axis])[slice(begin, end, strides[axis])]
        x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return x


def _slice_by_size(a: Arguments) -> Tensor:
    x = a.tensor("x")
    for axis, (begin, size) in enumerate(zip(a.ints("begin"), a.ints("size"), strict=True)):
        start = begin % x.shape[axis] if begin < 0 else begin
        x = x.narrow(axis, start, x.shape[axis] - start if size == -1 else size)
    return x


def _crop(a: Arguments) -> Tensor:
    """``crop_height`` and ``crop_width``: elements cut off before and after."""
    x, (top, bottom), (left, right) = a.tensor("x"), a.ints("crop_height"), a.ints("crop_width")
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _concat(a: Arguments) -> Tensor:
    values, axis = a.tensors("values"), a.integer("axis")
    if not a.flag("interleave"):
        return torch.cat(values, axis)
    # Interleaved: a0 b0 a1 b1, a new axis behind the one that is joined, and the two made one.
    return torch.stack(values, axis % values[0].dim() + 1).flatten(axis % values[0].dim(), axis % values[0].dim() + 1)


def _split(a: Arguments) -> list[Tensor]:
    x, axis = a.tensor("x"), a.integer("axis")
    sizes = a.ints("split_sizes") if "split_sizes" in a else [x.shape[axis] // a.results] * a.results
    return list(torch.split(x, sizes, axis))


def _pad(a: Arguments) -> Tensor:
    """``pad``: elements before and after each of the last axes."""
    x, pads, mode = a.tensor("x"), a.ints("pad"), a.text("mode", "constant")
    pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
    if mode == "constant":
        return functional.pad(
            x, list(itertools.chain.from_iterable(reversed(pairs))), value=a.number("constant_val", 0.0)
        )
    if mode not in {"reflect", "replicate"}:
        raise UnsupportedError(f"the Core ML padding mode '{mode}' is not evaluated")
    # By the places that are taken, axis by axis: torch's own padding knows the last three axes only.
    for axis, (before, after) in enumerate(pairs, x.dim() - len(pairs)):
        last = x.shape[axis] - 1
        places = torch.arange(-before, last + 1 + after)
        if mode == "replicate":
            places = places.clamp(0, last)
        elif max(before, after) > last:
            raise ValueError(
                f"{max(before, after)} places are mirrored of an axis of {last + 1}, at most {last} can be"
            )
        else:
            places = last - (last - places.abs()).abs()
        x = x.index_select(axis, places)
    return x


def _cumsum(a: Arguments) -> Tensor:
    x, axis = a.tensor("x"), a.integer("axis", 0)
    x = x.flip(axis) if a.flag("reverse") else x
    total = x.cumsum(axis, dtype=x.dtype)
    total = total - x if a.flag("exclusive") else total
    return total.flip(axis) if a.flag("reverse") else total


def _reverse(a: Arguments) -> Tensor:
    x = a.tensor("x")
    return x.flip(a.ints("axes", list(range(x.dim()))))


def _depth_to_space(a: Arguments) -> Tensor:
    # Depth is split block first, as TensorFlow's; pixel_shuffle splits it channel first.
    x, block = a.tensor("x"), a.integer("block_size")
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(a: Arguments) -> Tensor:
    x, block = a.tensor("x"), a.integer("block_size")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


def _band_part(a: Arguments) -> Tensor:
    x, lower, upper = a.tensor("x"), a.integer("lower", -1), a.integer("upper", -1)
    x = x if lower < 0 else x.triu(-lower)
    return x if upper < 0 else x.tril(upper)


def _one_hot(a: Arguments) -> Tensor:
    indices, size, axis = a.tensor("indices"), a.integer("one_hot_vector_size"), a.integer("axis", -1)
    axis %= indices.dim() + 1
    shape = [1] * (indices.dim() + 1)
    shape[axis] = size
    hot = indices.unsqueeze(axis) == torch.arange(size).reshape(shape)
    return torch.where(hot, a.number("on_value", 1), a.number("off_value", 0))


OPERATORS = {
    "reshape": _reshape,
    "reshape_like": lambda a: a.tensor("x").reshape(a.tensors("ref_tensors")[0].shape),
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "transpose": lambda a: a.tensor("x").permute(a.ints("perm")),
    "reverse": _reverse,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
    "pixel_shuffle": lambda a: functional.pixel_shuffle(a.tensor("x"), a.integer("upscale_factor")),
    "pixel_unshuffle": lambda a: functional.pixel_unshuffle(a.tensor("x"), a.integer("downscale_factor")),
    "crop": _crop,
    "concat": _concat,
    "stack": lambda a: torch.stack(a.tensors("values"), a.integer("axis")),
    "split": _split,
    "pad": _pad,
    "tile": lambda a: a.tensor("x").tile(a.ints("reps")),
    "cumsum": _cumsum,
    "fill": lambda a: torch.full(a.ints("shape"), a.number("value", 0.0)),
    "fill_like": lambda a: torch.full(a.tensor("ref_tensor").shape, a.number("value", 0.0)),
    "range_1d": lambda a: torch.arange(a.number("start"), a.number("end"), a.number("step")),
    "flatten2d": lambda a: a.tensor("x").flatten(a.integer("axis", 1)).flatten(0, a.integer("axis", 1) - 1),
    "shape": lambda a: torch.tensor(a.tensor("x").shape),
    "band_part": _band_part,
    "one_hot": _one_hot,
}

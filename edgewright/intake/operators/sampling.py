"""Resizing and sampling of images and other grids.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgewright.intake.builder import Builder, Op, Operand, Result, is_static, operand, refuse, tensor
from edgewright.intake.operators.shape import integers

__all__ = ["HANDLERS"]

# All are honoured below; which of them are read depends on the mode.
_SETTINGS = {"antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "mode"} | {
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "nearest_mode",
    "scales",
}
_ALIGNED = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}


def resize(b: Builder, op: Op) -> Result:
    """Resize (and Upsample before opset 10): torch's own where it means the same, else one matrix for each axis."""
    x = operand(op, 0)
    if not is_static(b.shape(x)[1:]):
        raise refuse(op, "free sizes")
    op.asked.update(_SETTINGS)
    sizes, scales = _goal(b, op, x)
    changed = [axis for axis in range(b.rank(x)) if sizes[axis] is not None]
    common = _by_torch(b, op, x, sizes, scales)
    if common is not None:
        return common
    dtype, beyond = b.dtype(x), torch.zeros((1,) * b.rank(x), dtype=torch.bool)
    for axis in changed:
        length, goal = b.shape(x)[axis], int(sizes[axis] or 0)
        if not isinstance(length, int):
            raise refuse(op, "along the batch axis")
        weights = _weights(op, length, goal, scales[axis] or 1.0, _region(op, axis, b.rank(x)))
        outside = torch.from_numpy((weights == 0).all(axis=1))
        beyond = beyond | outside.reshape([-1 if i == axis else 1 for i in range(b.rank(x))])
        # A row of the matrix that picks one cell is an index: exact, and much cheaper.
        if op.get("mode", "nearest") == "nearest" and (weights.sum(axis=1) == 1).all():
            x = b.call(torch.index_select, x, axis, torch.from_numpy(weights.argmax(axis=1)))
            continue
        x = _matrix_along(b, x, axis, torch.from_numpy(weights))
    fill = op.get("extrapolation_value", 0.0)
    if fill != 0 and beyond.any():
        x = b.call(torch.where, beyond, torch.tensor(fill, dtype=b.dtype(x)), x)
    return x if b.dtype(x) == dtype else b.call(torch.Tensor.to, x, dtype)


def _goal(b: Builder, op: Op, x: Operand) -> tuple[list[int | None], list[float | None]]:
    """For each axis its new size and scale; None where it stays."""
    rank = b.rank(x)
    if op.kind == "Upsample":
        given: list[float] | None = op.get("scales") or [float(s) for s in tensor(op, 1).tolist()]
        wanted = None
    else:
        # Before opset 11 there was no region of interest among the inputs.
        scales_at, sizes_at = (1, 2) if op.opset < 11 else (2, 3)
        has_sizes = op.input(sizes_at) is not None
        wanted = integers(op, sizes_at) if has_sizes else None
        given = None if wanted else [float(s) for s in tensor(op, scales_at).tolist()]
    axes = [a % rank for a in op.get("axes") or range(rank)]
    sizes: list[int | None] = [None] * rank
    scales: list[float | None] = [None] * rank
    if wanted and op.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        wanted = _in_proportion(op, wanted, [b.shape(x)[a] for a in axes])
    for position, axis in enumerate(axes):
        length = b.shape(x)[axis]
        if not isinstance(length, int):
            continue
        goal, scale = (int(wanted[position]), None) if wanted else _scaled(length, (given or [])[position])
        scale = goal / length if scale is None else scale
        if goal != length or scale != 1:
            sizes[axis], scales[axis] = goal, scale
    return sizes, scales


def _scaled(length: int, scale: float) -> tuple[int, float | None]:
    """The size, rounded down as the specification has it, and the scale as it is given; None where it is that of the
    sizes as nearly as float32 holds it.

    In float32, as ONNX Runtime: 12 times the 17/12 that is left in float32 is less than 17 otherwise.
    """
    single = np.float32(scale)
    goal = int(np.float32(length) * single)
    return goal, None if abs(goal / length - single) <= 2 * np.spacing(single) else scale


def _in_proportion(op: Op, wanted: list[int], lengths: list[int]) -> list[int]:
    choose = min if op.get("keep_aspect_ratio_policy") == "not_larger" else max
    scale = choose(w / n for w, n in zip(wanted, lengths, strict=True))
    return [math.floor(scale * n + 0.5) for n in lengths]


def _by_torch(b: Builder, op: Op, x: Operand, sizes: list[int | None], scales: list[float | None]) -> Operand | None:
    """`interpolate`, where ONNX's settings mean exactly that."""
    # interpolate leaves batch and channels, and asks for real numbers.
    if b.rank(x) != 4 or sizes[0] is not None or sizes[1] is not None or not b.dtype(x).is_floating_point:
        return None
    lengths = b.shape(x)
    goal = [sizes[a] or lengths[a] for a in (2, 3)]
    # torch works the scale out from the sizes: another one samples elsewhere.
    exact = all(scales[a] is None or scales[a] == goal[i] / lengths[a] for i, a in enumerate((2, 3)))
    mode, transform = op.get("mode", "nearest"), op.get("coordinate_transformation_mode", "half_pixel")
    transform = "asymmetric" if op.opset < 11 else transform
    if op.get("antialias", 0) or not exact:
        return None
    # For whole factors both ways choose the same cell; torch's nearest rounds down.
    whole = all(goal[i] % lengths[a] == 0 for i, a in enumerate((2, 3)))
    rounding = "floor" if op.opset < 11 else op.get("nearest_mode", "round_prefer_floor")
    if (
        mode == "nearest"
        and whole
        and (transform, rounding) in {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}
    ):
        return b.call(functional.interpolate, x, size=goal, mode="nearest")
    # With one cell the modes differ in where it is taken from.
    if mode in {"linear", "bilinear"} and transform in _ALIGNED and min(goal) > 1:
        return b.call(functional.interpolate, x, size=goal, mode="bilinear", align_corners=_ALIGNED[transform])
    return None


def _matrix_along(b: Builder, x: Operand, axis: int, weights: torch.Tensor) -> Operand:
    last = b.rank(x) - 1
    # In float32: the weights are fractions, whatever the image's type.
    x = x if b.dtype(x) == torch.float32 else b.call(torch.Tensor.to, x, torch.float32)
    moved = x if axis == last else b.call(torch.transpose, x, axis, last)
    result = b.call(torch.matmul, moved, weights.float().t().contiguous())
    return result if axis == last else b.call(torch.transpose, result, axis, last)


def _region(op: Op, axis: int, rank: int) -> tuple[float, float]:
    roi = op.input(1) if op.opset >= 11 else None
    if not isinstance(roi, torch.Tensor) or roi.numel() == 0:
        return 0.0, 1.0
    axes = [a % rank for a in op.get("axes") or range(rank)]
    return float(roi[axes.index(axis)]), float(roi[axes.index(axis) + len(axes)])


def _weights(op: Op, length: int, goal: int, scale: float, region: tuple[float, float]) -> NDArray[np.float64]:
    """(goal, length): how much each input cell gives to each output cell; nothing to one that lies outside."""
    weights = np.zeros((goal, length))
    for out in range(goal):
        at = _source(op, out, length, goal, scale, region)
        if op.get("coordinate_transformation_mode") == "tf_crop_and_resize" and not 0 <= at <= length - 1:
            continue
        cells, shares = _shares(op, at, scale)
        inside = (cells >= 0) & (cells < length)
        if op.get("exclude_outside", 0):
            shares = np.where(inside, shares, 0)
            shares = shares / shares.sum()
        np.add.at(weights[out], np.clip(cells, 0, length - 1), shares)
    return weights


def _source(op: Op, out: int, length: int, goal: int, scale: float, region: tuple[float, float]) -> float:
    """Where an output cell lies on the input's axis."""
    mode = op.get("coordinate_transformation_mode", "half_pixel") if op.opset >= 11 else "asymmetric"
    wide = length * scale
    match mode:
        case "asymmetric":
            return out / scale
        case "tf_half_pixel_for_nn":
            return (out + 0.5) / scale
        case "align_corners":
            return 0.0 if wide == 1 else out * (length - 1) / (wide - 1)
        case "pytorch_half_pixel":
            return -0.5 if wide == 1 else (out + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            centre = length / 2
            return centre * (1 - int(wide) / wide) + (out + 0.5) / scale - 0.5
        case "tf_crop_and_resize":
            start, end = region
            if goal == 1:
                return (end - start) * (length - 1) / 2
            return out * (end - start) * (length - 1) / (goal - 1) + start * (length - 1)
        case _:
            return (out + 0.5) / scale - 0.5


def _shares(op: Op, at: float, scale: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    mode = op.get("mode", "nearest")
    if mode == "nearest":
        rounding = op.get("nearest_mode", "round_prefer_floor") if op.opset >= 11 else "floor"
        chosen = {
            "round_prefer_floor": math.ceil(at - 0.5),
            "round_prefer_ceil": math.floor(at + 0.5),
            "floor": math.floor(at),
            "ceil": math.ceil(at),
        }[rounding]
        return np.array([chosen]), np.ones(1)
    kernel: Callable[[Any], Any] = (
        _triangle if mode in {"linear", "bilinear"} else _cubic(op.get("cubic_coeff_a", -0.75))
    )
    reach = 1 if kernel is _triangle else 2
    stretch = min(scale, 1.0) if op.get("antialias", 0) else 1.0
    # Wide enough for any kernel; cells without a share are dropped.
    cells = np.arange(math.floor(at - reach / stretch), math.ceil(at + reach / stretch) + 1)
    shares = kernel((cells - at) * stretch)
    # A stretched kernel no longer sums to one.
    if stretch < 1:
        shares = shares / shares.sum()
    return cells[shares != 0], shares[shares != 0]


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _cubic(a: float) -> Callable[[NDArray[np.float64]], Any]:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981."""

    def kernel(x: NDArray[np.float64]) -> Any:
        d = np.abs(x)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    return kernel


def grid_sample(b: Builder, op: Op) -> Result:
    """GridSample."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(op.get("mode", "linear"), op.get("mode", "bilinear"))
    aligned = bool(op.get("align_corners", 0))
    padding = op.get("padding_mode", "zeros")
    x, grid = operand(op, 0), operand(op, 1)
    return b.call(functional.grid_sample, x, grid, mode=mode, padding_mode=padding, align_corners=aligned)


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "Resize": resize,
    "Upsample": resize,
    "GridSample": grid_sample,
}

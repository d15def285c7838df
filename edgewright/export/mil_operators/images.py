"""Resizing of the last two axes, on the sampling grids that the specification lists."""

import torch
from torch import Tensor

from edgewright.errors import UnsupportedError
from edgewright.export.mil_operators.arguments import Arguments

__all__ = ["OPERATORS"]


def _grid(size: int, target: int, mode: str) -> Tensor:
    """Source coordinate of each target element, float64."""
    i = torch.arange(target, dtype=torch.float64)
    if mode in {"STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"}:
        # The two differ here alone, where (target - 1) is not a divisor.
        if target == 1:
            return torch.full((1,), (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0, dtype=torch.float64)
        points = i * (size - 1) / (target - 1)
    elif mode == "DEFAULT":
        points = i * (size - size / target) / (target - 1) if target > 1 else i
    elif mode == "UNALIGN_CORNERS":
        points = i * size / target + 0.5 * size / target - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (0.5 + i) * max(1, size - 1) / target
    else:
        raise UnsupportedError(f"the Core ML sampling mode '{mode}' is not evaluated")
    # Half a place may lie beyond the edge: the specification holds every point to the image.
    return points.clamp(0, size - 1)


def _interpolate(x: Tensor, axis: int, points: Tensor) -> Tensor:
    low = points.floor().long()
    # At the last place the share of the next one is zero; the index must exist all the same.
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    shape = [1] * x.dim()
    shape[axis] = -1
    share = (points - low).to(x.dtype).reshape(shape)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _bilinear(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    x = _interpolate(x, x.dim() - 2, _grid(x.shape[-2], height, mode))
    return _interpolate(x, x.dim() - 1, _grid(x.shape[-1], width, mode))


def _resize_bilinear(a: Arguments) -> Tensor:
    height, width = a.integer("target_size_height", 1), a.integer("target_size_width", 1)
    return _bilinear(a.tensor("x"), height, width, a.text("sampling_mode", "DEFAULT"))


def _targets(a: Arguments) -> tuple[int, int]:
    x = a.tensor("x")
    sides = (("height", x.shape[-2]), ("width", x.shape[-1]))
    # Rounded down, by the specification; multiplied in float32, as coremltools does: 7 / 3 is too small there, and
    # 300 times that is 699.99998 in float64, and 700 here.
    height, width = (
        int(torch.tensor(a.number(f"scale_factor_{side}", 1.0), dtype=torch.float32) * size) for side, size in sides
    )
    return height, width


def _upsample_bilinear(a: Arguments) -> Tensor:
    mode = "STRICT_ALIGN_CORNERS" if a.flag("align_corners", True) else "UNALIGN_CORNERS"
    return _bilinear(a.tensor("x"), *_targets(a), mode)


def _nearest(x: Tensor, height: int, width: int) -> Tensor:
    for axis, target in ((x.dim() - 2, height), (x.dim() - 1, width)):
        # The floor of i * size / target, in whole numbers.
        x = x.index_select(axis, torch.arange(target) * x.shape[axis] // target)
    return x


OPERATORS = {
    "resize_bilinear": _resize_bilinear,
    "upsample_bilinear": _upsample_bilinear,
    "resize_nearest_neighbor": lambda a: _nearest(
        a.tensor("x"), a.integer("target_size_height"), a.integer("target_size_width")
    ),
    "upsample_nearest_neighbor": lambda a: _nearest(a.tensor("x"), *_targets(a)),
}

"""Pooling whose windows hang over the edge, do not divide their input, lie apart or have a divisor of their own.

Imports torch.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from edgewright.export.padding_form import padded

__all__ = ["POOLING_FORMS", "has_own_divisor", "is_ceiling", "is_dilated", "tells_places"]

Tensor = torch.Tensor


def _adaptive_avg_pool3d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    sizes = x.shape[-3:]
    if all(n == 1 for n in output_size):
        return x.mean((-3, -2, -1), keepdim=True)
    if all(have % want == 0 for have, want in zip(sizes, output_size, strict=True)):
        return functional.avg_pool3d(x, [have // want for have, want in zip(sizes, output_size, strict=True)])
    for axis, (have, want) in enumerate(zip(sizes, output_size, strict=True)):
        x = _averaged(x, axis - 3, have, want)
    return x


def _averaged(x: Tensor, axis: int, have: int, want: int) -> Tensor:
    """Means of ``want`` windows that may overlap, as a product with a constant matrix."""
    # torch's own bounds of adaptive pooling: from the floor of i * have / want to the ceiling of (i + 1) * have / want.
    bounds = [(place_ * have // want, -(-(place_ + 1) * have // want)) for place_ in range(want)]
    # (have, want): each column averages its own window.
    matrix = [[(start <= row < end) / (end - start) for start, end in bounds] for row in range(have)]
    return (x.movedim(axis, -1) @ torch.tensor(matrix)).movedim(-1, axis)


def _adaptive_avg_pool2d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    for axis, want in zip((-2, -1), output_size, strict=True):
        x = _averaged(x, axis, x.shape[axis], want)
    return x


def _numbered(x: Tensor, axes: int) -> Tensor:
    """The place of each number in its own image, (1, ..., *image); real, as converters pad no others.

    They are exact up to 2^24, an image of 4,096 x 4,096.
    """
    image = x.shape[-axes:]
    return torch.arange(math.prod(image)).float().reshape([*[1] * (x.dim() - axes), *image])


def _where_equal(x: Tensor, largest: Tensor, places: Tensor, behind: float) -> Tensor:
    # NaN is the largest of a window that holds one, and equals nothing.
    return torch.where((x == largest) | torch.isnan(x), places, torch.full_like(places, behind))


def _adaptive_max_pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest of windows that may overlap, and its place in the image: the first, where several are as large."""
    places, count = _numbered(x, len(output_size)), math.prod(x.shape[-len(output_size) :])
    for axis, want in zip(range(-len(output_size), 0), output_size, strict=True):
        have = x.shape[axis]
        bounds = [(n * have // want, -(-(n + 1) * have // want)) for n in range(want)]
        windows = [(x.narrow(axis, a, b - a), places.narrow(axis, a, b - a)) for a, b in bounds]
        parts = [window.amax(axis, keepdim=True) for window, _ in windows]
        firsts = [
            _where_equal(window, part, of_window, count).amin(axis, keepdim=True)
            for part, (window, of_window) in zip(parts, windows, strict=True)
        ]
        x, places = torch.cat(parts, axis), torch.cat(firsts, axis)
    return x, places.to(torch.int64)


def _avg_pool(
    axes: int,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Means over whole windows, times what each window's own divisor is off: nothing lies in the padding."""
    # ATen allows one number for all axes, and an empty stride for that of the kernel.
    kernel, steps, pads = (list(n) * (axes // len(n)) for n in (kernel_size, stride or kernel_size, padding))
    behind, factors = [], [1.0]
    for have, wide, step, pad in zip(x.shape[-axes:], kernel, steps, pads, strict=True):
        last = -(-(have + 2 * pad - wide) // step) if ceil_mode else (have + 2 * pad - wide) // step
        if last * step >= have + pad:  # it would begin in the padding behind
            last -= 1
        # As far as the last window reaches, which may be less than the padding, and than the input.
        behind.append(last * step + wide - have - pad)
        first, end = (-pad, have + pad) if count_include_pad else (0, have)
        # How many numbers each window's own divisor counts along this axis; the divisor is the product over all axes.
        starts = [place_ * step - pad for place_ in range(last + 1)]
        counts = [min(start + wide, end) - max(start, first) for start in starts]
        factors = [f * wide / count for f in factors for count in counts]
    # `functional.pad` begins with the last axis.
    around = [n for i in reversed(range(axes)) for n in (pads[i], behind[i])]
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[axes - 1]
    means = pool(padded(x, around) if any(around) else x, kernel, steps)
    if divisor_override is not None:
        return means * (math.prod(kernel) / divisor_override)
    return means if set(factors) == {1.0} else means * torch.tensor(factors).reshape(means.shape[-axes:])


def _max_pool(
    axes: int,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """The largest of windows whose places may lie apart, one axis after the other; and its place, as above."""
    numbers, count = _numbered(x, axes), math.prod(x.shape[-axes:])
    given = (kernel_size, stride or kernel_size, padding, dilation)
    for axis, (wide, step, pad, apart) in enumerate(zip(*(list(n) * (axes // len(n)) for n in given), strict=True)):
        axis -= axes  # noqa: PLW2901 - counted from the last
        have, reach = x.shape[axis], apart * (wide - 1) + 1
        last = -(-(have + 2 * pad - reach) // step) if ceil_mode else (have + 2 * pad - reach) // step
        if last * step >= have + pad:  # it would begin in the padding behind
            last -= 1
        least = torch.finfo(x.dtype).min if x.is_floating_point() else torch.iinfo(x.dtype).min
        around = [pad, max(0, last * step + reach - have - pad)]
        if any(around):
            x = functional.pad(x, [0, 0] * (-1 - axis) + around, value=least)
            numbers = functional.pad(numbers, [0, 0] * (-1 - axis) + around, value=count)
        starts = [n * apart for n in range(wide)]
        # One shifted slice for each place of the window, thinned to the windows' starts: their maximum is the pooling.
        parts, places = (
            [
                torch.ops.aten.slice.Tensor(side.narrow(axis, start, last * step + 1), axis, 0, last * step + 1, step)
                for start in starts
            ]
            for side in (x, numbers)
        )
        x = functools.reduce(torch.maximum, parts)
        firsts = [_where_equal(part, x, place_, count) for part, place_ in zip(parts, places, strict=True)]
        numbers = functools.reduce(torch.minimum, firsts)
    return x, numbers.to(torch.int64)


def _max_pool_alone(axes: int, *given: Any, **named: Any) -> Tensor:
    return _max_pool(axes, *given, **named)[0]


def is_dilated(node: fx.Node) -> bool:
    """Whether this is pooling for the largest whose windows have gaps."""
    given: Any = node.kwargs.get("dilation") or (*node.args[4:], (1,))[0]
    return str(node.target) in _LARGEST and set(given if isinstance(given, (list, tuple)) else [given]) != {1}


def tells_places(node: fx.Node) -> bool:
    """Whether this is pooling for the largest, and somebody reads where they stood."""
    name = str(node.target)
    is_pool = name.startswith("aten.adaptive_max_pool") or name in _WITH_INDICES
    return is_pool and any(user.args[1] == 1 for user in node.users)


def has_own_divisor(node: fx.Node) -> bool:
    """Whether this is average pooling that divides by a number of its own."""
    return _is_average(node) and (node.kwargs.get("divisor_override") or (*node.args[6:], None)[0]) is not None


def is_ceiling(node: fx.Node) -> bool:
    """Whether this is average pooling whose last window may hang over the edge."""
    return _is_average(node) and bool(node.kwargs.get("ceil_mode") or (*node.args[4:], False)[0])


def _is_average(node: fx.Node) -> bool:
    return str(node.target) in {f"aten.avg_pool{axes}d.default" for axes in (1, 2, 3)}


def _adaptive_avg_pool1d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    return _averaged(x, -1, x.shape[-1], output_size[0])


_WITH_INDICES: dict[str, Callable[..., Any]] = {
    f"aten.max_pool{axes}d_with_indices.default": partial(_max_pool, axes) for axes in (1, 2, 3)
}
_LARGEST: dict[str, Callable[..., Any]] = {
    **{f"aten.max_pool{axes}d.default": partial(_max_pool_alone, axes) for axes in (1, 2, 3)},
    **_WITH_INDICES,
}

POOLING_FORMS: dict[str, Callable[..., Any]] = {
    **_LARGEST,
    "aten.adaptive_avg_pool1d.default": _adaptive_avg_pool1d,
    "aten.adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "aten._adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "aten.adaptive_avg_pool3d.default": _adaptive_avg_pool3d,
    "aten._adaptive_avg_pool3d.default": _adaptive_avg_pool3d,
    "aten.avg_pool1d.default": partial(_avg_pool, 1),
    "aten.avg_pool2d.default": partial(_avg_pool, 2),
    "aten.avg_pool3d.default": partial(_avg_pool, 3),
    "aten.adaptive_max_pool1d.default": _adaptive_max_pool,
    "aten.adaptive_max_pool2d.default": _adaptive_max_pool,
    "aten.adaptive_max_pool3d.default": _adaptive_max_pool,
}
"""By the operation's name: functions of its own arguments."""

"""Resizing of images, axis by axis: a product with a matrix of constants, or a choice of places for the nearest.

By torch's own rule for each scale and size, which converters take from the sizes alone. Imports torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from edgewright.export.static_graph import NodeValues

__all__ = ["RESIZE_FORMS", "has_other_scale", "is_uneven_nearest"]

Tensor = torch.Tensor
_ATEN = torch.ops.aten
_NEAREST = {
    f"aten.{name}{axes}d.vec": getattr(_ATEN, f"{name}{axes}d").vec
    for name in ("upsample_nearest", "_upsample_nearest_exact")
    for axes in (1, 2, 3)
}
_LINEAR = {
    f"aten.{name}.vec": getattr(_ATEN, name).vec
    for name in (
        *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"),
        *("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"),
    )
}


def _of_one_axis(
    operation: Callable[..., Tensor],
    lines: Tensor,
    axis: int,
    axes: int,
    settings: Sequence[Any],
    named: Mapping[str, Any],
) -> Tensor:
    """What the operation makes of ``lines`` (N, L) along that one of the image's axes, with its size and its scale.

    The others have two places: of one alone, torch (2.13) makes something else where it smooths.
    """
    # The overloads for the nearest have no `align_corners` between the two.
    names = ("output_size", *("align_corners",) * (operation not in _NEAREST.values()), "scale_factors")
    given = {**dict(zip(names, settings, strict=False)), **named}
    for name, same in (("output_size", 2), ("scale_factors", 1.0)):
        if given.get(name) is not None:
            given[name] = [size if place == axis else same for place, size in enumerate(given[name])]
    count, length = lines.shape
    along = lines.reshape(count, 1, *(length if place == axis else 1 for place in range(axes)))
    image = along.expand(count, 1, *(length if place == axis else 2 for place in range(axes))).contiguous()
    resized_image = operation(image, **{name: given.get(name) for name in names})
    return resized_image.movedim(axis + 2, -1).reshape(count, -1, resized_image.shape[axis + 2])[:, 0]


def _nearest(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def form(x: Tensor, *settings: Any, **named: Any) -> Tensor:
        axes = x.dim() - 2
        for axis in range(axes):
            # The places themselves are resized: which of them comes out is the index to take.
            line = torch.arange(x.shape[axis + 2]).float().unsqueeze(0)
            places = _of_one_axis(operation, line, axis, axes, settings, named)
            x = x.index_select(axis + 2, places.reshape(-1).to(torch.int64))
        return x

    return form


def _linear(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def form(x: Tensor, *settings: Any, **named: Any) -> Tensor:
        axes, is_whole = x.dim() - 2, not x.dtype.is_floating_point
        for axis in reversed(range(axes)):
            # It is linear: what it makes of the unit vectors are the rows of its matrix, (have, want).
            shares = _of_one_axis(operation, torch.eye(x.shape[axis + 2]), axis, axes, settings, named)
            lines = x.movedim(axis + 2, -1)
            # Shares of one are not whole numbers.
            resized_lines = _rounded(lines.float() @ shares, x.dtype) if is_whole else lines @ shares.to(x.dtype)
            x = resized_lines.movedim(-1, axis + 2)
        return x

    return form


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """After each axis, from the last on, as torch does; bicubic shares lead beyond what the type holds."""
    limits = torch.iinfo(dtype)
    return torch.round(x).clamp(limits.min, limits.max).to(dtype)


def has_other_scale(node: fx.Node, values: NodeValues) -> bool:
    """Whether it is a resize by a scale other than the ratio of its sizes, as where the size was rounded down."""
    scales = _scales(node)
    is_aligned = node.args[2:3] == (True,) or node.kwargs.get("align_corners") is True
    # With aligned corners the sizes alone decide.
    if scales is None or (is_aligned and str(node.target) in _LINEAR):
        return False
    return any(have * scale != want for (have, want), scale in zip(_sizes(node, values), scales, strict=True))


def _sizes(node: fx.Node, values: NodeValues) -> list[tuple[int, int]]:
    """Of each axis of the image: before and after."""
    input_shape, output_shape = values.env[node.args[0]].shape, values.env[node].shape  # type: ignore[index]
    return list(zip(input_shape[2:], output_shape[2:], strict=True))


def _scales(node: fx.Node) -> Sequence[float] | None:
    if str(node.target) not in _LINEAR | _NEAREST:
        return None
    # Behind `align_corners`, which those for the nearest lack.
    place = 3 if str(node.target) in _LINEAR else 2
    scales: Sequence[float] | None = node.args[place] if len(node.args) > place else node.kwargs.get("scale_factors")  # type: ignore[assignment]
    return scales


def is_uneven_nearest(node: fx.Node, values: NodeValues) -> bool:
    """Whether it is a resize that takes the nearest, and not each place as many times."""
    return str(node.target) in _NEAREST and any(want % have for have, want in _sizes(node, values))


RESIZE_FORMS: Mapping[str, Callable[..., Any]] = {
    **{name: _nearest(operation) for name, operation in _NEAREST.items()},
    **{name: _linear(operation) for name, operation in _LINEAR.items()},
}
"""By the operation's name: functions of its own arguments."""

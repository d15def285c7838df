"""Writing into a tensor by indices, and sampling images on a grid that a network computes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgewright.errors import UnsupportedError
from edgewright.export.mil_operators.arguments import Arguments

__all__ = ["OPERATORS"]

_SAMPLING = {"bilinear": "bilinear", "nearest": "nearest"}
_CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
}
_PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection"}


def _put(data: Tensor, places: tuple[Tensor, ...], updates: Tensor, mode: str) -> Tensor:
    updates = updates.to(data.dtype)
    if mode == "update":
        return data.index_put(places, updates)
    if mode in {"add", "sub"}:
        return data.index_put(places, updates if mode == "add" else -updates, accumulate=True)
    if mode in _CHANGES:
        # These read, change and write once: of two updates of one place, one would be lost.
        if len({tuple(p) for p in torch.stack(places, -1).reshape(-1, len(places)).tolist()}) < places[0].numel():
            raise UnsupportedError(f"the Core ML scatter mode '{mode}' onto one place twice is not evaluated")
        return data.index_put(places, _CHANGES[mode](data[places], updates))
    raise UnsupportedError(f"the Core ML scatter mode '{mode}' is not evaluated")


def _scatter(a: Arguments) -> Tensor:
    """Slices along an axis."""
    data, indices, updates = a.tensor("data"), a.tensor("indices").long(), a.tensor("updates")
    axis = a.integer("axis", 0) % data.dim()
    rank = max(indices.dim(), 1)
    # The indices' axes stand in `updates` where the axis stood in `data`: (*before, *indices, *behind).
    front = updates.movedim(list(range(axis, axis + rank)), list(range(rank)))
    places = _counted_from_the_first(indices.reshape(-1), data.shape[axis])
    return _put(data.movedim(axis, 0), (places,), front.flatten(0, rank - 1), _mode(a)).movedim(0, axis)


def _scatter_along_axis(a: Arguments) -> Tensor:
    data, indices, updates = a.tensor("data"), a.tensor("indices").long(), a.tensor("updates")
    axis = a.integer("axis", 0) % data.dim()
    # Each index with its own place along the other axes.
    places = list(torch.meshgrid(*(torch.arange(n) for n in indices.shape), indexing="ij"))
    places[axis] = _counted_from_the_first(indices, data.shape[axis])
    return _put(data, tuple(places), updates, _mode(a))


def _scatter_nd(a: Arguments) -> Tensor:
    data, indices, updates = a.tensor("data"), a.tensor("indices").long(), a.tensor("updates")
    places = tuple(map(_counted_from_the_first, indices.unbind(-1), data.shape))
    return _put(data, places, updates, _mode(a))


def _counted_from_the_first(indices: Tensor, size: int) -> Tensor:
    """A negative index counts from the end; one outside both is a wrong conversion's."""
    outside = indices[(indices < -size) | (indices >= size)]
    if outside.numel():
        raise ValueError(f"the index {int(outside[0])} lies outside an axis of {size} places")
    return torch.where(indices < 0, indices + size, indices)


def _mode(a: Arguments) -> str:
    return a.text("mode", "add")


def _sampled(a: Arguments, grid: Tensor) -> Tensor:
    sampling, padding = a.text("sampling_mode", "bilinear"), a.text("padding_mode", "constant")
    # MIL also has `symmetric` padding and a constant other than zero, torch's `grid_sample` neither.
    if sampling not in _SAMPLING or padding not in _PADDING or a.number("padding_value", 0.0) != 0:
        raise UnsupportedError(f"Core ML sampling '{sampling}' with padding '{padding}' is not evaluated")
    x = a.tensor("x")
    return functional.grid_sample(x, grid, _SAMPLING[sampling], _PADDING[padding], a.flag("align_corners"))


def _normalized(a: Arguments) -> None:
    kind = a.text("coordinates_mode", "normalized_minus_one_to_one")
    if kind != "normalized_minus_one_to_one":
        raise UnsupportedError(f"Core ML coordinates '{kind}' are not evaluated")


def _resample(a: Arguments) -> Tensor:
    _normalized(a)
    return _sampled(a, a.tensor("coordinates"))


def _affine(a: Arguments) -> Tensor:
    _normalized(a)
    x, matrix = a.tensor("x"), a.tensor("transform_matrix").reshape(-1, 2, 3)
    size = [len(x), x.shape[1], a.integer("output_height"), a.integer("output_width")]
    return _sampled(a, functional.affine_grid(matrix, size, a.flag("align_corners")))


OPERATORS = {
    "affine": _affine,
    "resample": _resample,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
}

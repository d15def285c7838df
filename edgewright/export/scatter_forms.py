"""Numbers gathered on places that a tensor names, for LiteRT: its runtime refuses them as its converter writes them.

The runtime takes a scatter that overwrites, and adds, but not with the body that torch's ``scatter_add`` becomes. Each
number is compared with all places instead, and what falls on a place is summed, or the greatest of it taken. Imports
torch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch.nn import functional

from edgewright.export.static_graph import NodeValues

__all__ = ["SCATTER_FORMS", "has_scatter_form"]

Tensor = torch.Tensor
AxisIndices = Sequence[Tensor | None]

_MAX_COMPARISONS = 1 << 22  # each is a number in memory
_SUMS = {"add", "sum"}
_REDUCTIONS = {*_SUMS, "mean", "amax", "amin"}  # of those that multiply, no form is here


def has_scatter_form(node: fx.Node, values: NodeValues) -> bool:
    """Whether it has a form here, in numbers that fit into memory."""
    if str(node.target) not in SCATTER_FORMS:
        return False
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    x = values.env[given["self"]]
    if "indices" in given:
        return bool(given.get("accumulate")) and _has_put_form(
            x, [index and values.env[index] for index in given["indices"]]
        )
    reduction = given.get("reduce", "sum")
    # A mean of whole numbers is rounded in a way of its own.
    if reduction not in _REDUCTIONS or not x.dim() or (reduction == "mean" and not x.is_floating_point()):
        return False
    # Of ``index_add`` each number of the source has a place, of the others each number of the index.
    falling = values.env[given["source"] if "source" in given else given["index"]]
    return int(falling.numel()) * int(x.shape[int(given["dim"])]) <= _MAX_COMPARISONS


def _has_put_form(x: Tensor, indices: AxisIndices) -> bool:
    axes = _axes(indices)
    # Truth values name as many places as are true; indexed axes with others between them come out in another order.
    if any(indices[axis].dtype is torch.bool for axis in axes) or axes != list(range(axes[0], axes[-1] + 1)):  # type: ignore[union-attr]
        return False
    numbers = math.prod(torch.broadcast_shapes(*(indices[axis].shape for axis in axes)))  # type: ignore[union-attr]
    return numbers * x.numel() <= _MAX_COMPARISONS


def _scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``src`` has at least the sizes of ``index``, which has at most those of ``x`` beside ``dim``."""
    moved, falls = _falling(x, dim, index, src)
    # Chosen, not multiplied by the comparison: infinity times zero is NaN. A sum of narrow integers is int64.
    added = torch.where(falls, moved, torch.zeros_like(moved)).sum(-2).to(x.dtype)
    return x + _placed(added, x, dim)


def _falling(x: Tensor, dim: int, index: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
    """(..., numbers, 1) and (..., numbers, places): the numbers, and whether each falls on a place."""
    own = src
    for axis, size in enumerate(index.shape):
        own = own.narrow(axis, 0, size)
    places = torch.arange(x.shape[dim], device=x.device)
    return own.movedim(dim, -1).unsqueeze(-1), index.movedim(dim, -1).unsqueeze(-1) == places


def _placed(reduced: Tensor, x: Tensor, dim: int) -> Tensor:
    """With ``dim`` where it was. Beside it, the index may be shorter than ``x``: what it does not reach gets zeros."""
    placed = reduced.movedim(-1, dim)
    missing = [(0, whole - size) for whole, size in zip(x.shape, placed.shape, strict=True)]
    if any(after for _, after in missing):
        placed = functional.pad(placed, [side for pair in reversed(missing) for side in pair])
    return placed


def _reduced(
    x: Tensor, dim: int, index: Tensor, src: Any, reduce: str = "sum", *, include_self: bool = True, **_: Any
) -> Tensor:
    own = src if isinstance(src, Tensor) else torch.full(index.shape, src, dtype=x.dtype, device=x.device)
    if reduce in _SUMS and include_self:
        return _scatter_add(x, dim, index, own)
    moved, falls = _falling(x, dim, index, own)
    counts = _placed(falls.to(torch.int32).sum(-2).to(torch.int32), x, dim)
    if reduce in {"amax", "amin"}:
        # What does not fall on a place is the least of all: infinity would take the whole range in 8 bits.
        filler = moved.amin(-2, keepdim=True) if reduce == "amax" else moved.amax(-2, keepdim=True)
        chosen = torch.where(falls, moved, filler)
        extreme = _placed(chosen.amax(-2) if reduce == "amax" else chosen.amin(-2), x, dim)
        both = torch.maximum(x, extreme) if reduce == "amax" else torch.minimum(x, extreme)
        return torch.where(counts > 0, both if include_self else extreme, x)
    total = _scatter_add(x if include_self else torch.zeros_like(x), dim, index, own)
    if reduce == "mean":
        total = total / (counts + 1 if include_self else counts.clamp(min=1)).to(x.dtype)
    return torch.where(counts > 0, total, x)


def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    own = source.reshape(1) if x.dim() == 1 and not source.dim() else source
    shape = [1] * own.dim()
    shape[dim] = -1
    return _scatter_add(x, dim, index.reshape(shape).expand_as(own), own * alpha if alpha != 1 else own)


def _index_put(x: Tensor, indices: AxisIndices, values: Tensor, accumulate: bool = False) -> Tensor:
    """Those that accumulate: the axes that are indexed become one, and so do their indices."""
    axes = _axes(indices)
    first, last = axes[0], axes[-1]
    place = torch.zeros((), dtype=torch.int64, device=x.device)
    for axis in axes:
        index, size = cast("Tensor", indices[axis]), x.shape[axis]
        place = place * size + torch.where(index < 0, index + size, index)
    before, behind = x.shape[:first], x.shape[last + 1 :]
    own = values.expand(*before, *place.shape, *behind).reshape(*before, -1, *behind)
    joined = x.reshape(*before, -1, *behind)
    return _index_add(joined, first, place.reshape(-1), own).reshape(x.shape)


def _axes(indices: AxisIndices) -> list[int]:
    return [axis for axis, index in enumerate(indices) if index is not None]


SCATTER_FORMS: Mapping[str, Callable[..., Any]] = {
    "aten.scatter_add.default": _scatter_add,
    "aten.scatter.reduce": _reduced,
    "aten.scatter.value_reduce": _reduced,
    "aten.scatter_reduce.two": _reduced,
    "aten.index_add.default": _index_add,
    "aten.index_put.default": _index_put,
}
"""By the operation's name: functions of its own arguments."""

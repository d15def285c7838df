"""Rounding, signs, classes of numbers and lengths, in operations that every converter takes.

Converters lack these, or make something else of them: each is by its definition here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgewright.errors import UnsupportedError

__all__ = ["NUMBER_FORMS", "STABLE_ORDERS", "is_below_zero"]

Tensor = torch.Tensor

_MAX_PAIRS = 2**22  # of numbers that are compared with each other: 4 million, 16 MB


def is_below_zero(x: Tensor) -> Tensor:
    """Whether a number has a minus sign; a zero shows its own by its reciprocal."""
    # -0.0 < 0 is false, 1 / -0.0 is minus infinity.
    return torch.where(x == 0, torch.tensor(1.0) / x, x) < 0


def _trunc(x: Tensor) -> Tensor:
    return torch.where(x < 0, torch.ceil(x), torch.floor(x)) if x.is_floating_point() else x


def _round_decimals(x: Tensor, *, decimals: int) -> Tensor:
    """Half to even, as without decimals."""
    # 0.01 is not exact in binary, 100 is: decimals of -2 divide by it first.
    unit = 10.0 ** abs(decimals)
    return torch.round(x * unit) / unit if decimals > 0 else torch.round(x / unit) * unit


def _isinf(x: Tensor) -> Tensor:
    return x.abs() > torch.finfo(x.dtype).max if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)


def _isfinite(x: Tensor) -> Tensor:
    return x.abs() <= torch.finfo(x.dtype).max if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)


def _or_the_other(choose: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def form(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, choose(x, y)))

    return form


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    """By the ratio of the two: their squares may leave the range of numbers."""
    longer, shorter = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    # Of two equal ones it is 1, where 0 / 0 and the ratio of two infinities are NaN.
    are_equal, one = longer == shorter, torch.ones_like(longer)
    ratio = torch.where(are_equal, one, shorter) / torch.where(are_equal, one, longer)
    return longer * torch.sqrt(ratio * ratio + 1.0)


def _copysign(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(is_below_zero(y), -x.abs(), x.abs())


def _of_truths(logical: Callable[..., Tensor], bitwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of truth values the bits are the values; of whole numbers it is left to the converter, which refuses it."""

    def form(x: Tensor, y: Tensor) -> Tensor:
        return (logical if x.dtype is y.dtype is torch.bool else bitwise)(x, y)

    return form


def _cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Each vector by its own length, which is at least ``eps``."""
    # First to one shape: the axis is counted in that, and a number that is repeated along it adds to the length.
    shape = torch.broadcast_shapes(x.shape, y.shape)
    x, y = (side if side.shape == shape else side.expand(shape) for side in (x, y))
    lengths = (torch.sqrt((side * side).sum(dim, keepdim=True)).clamp(min=eps) for side in (x, y))
    return ((x / next(lengths)) * (y / next(lengths))).sum(dim)


def _bitwise_not(x: Tensor) -> Tensor:
    if x.dtype is torch.bool:
        return torch.logical_not(x)
    return (255 if x.dtype is torch.uint8 else -1) - x


def _shifted_left(x: Tensor, places: Tensor | int) -> Tensor:
    product: Tensor = x * _factor(places)
    return product


def _shifted_right(x: Tensor, places: Tensor | int) -> Tensor:
    """Rounded down, as the sign is shifted in."""
    return torch.div(x, _factor(places), rounding_mode="floor")


def _factor(places: Tensor | int) -> Any:
    if not isinstance(places, Tensor):
        return 1 << places
    # Looked up, since converters raise to a power in real numbers.
    powers = torch.tensor([1 << n for n in range(torch.iinfo(places.dtype).bits - 1)], dtype=places.dtype)
    return powers.index_select(0, places.reshape(-1)).reshape(places.shape)


def _nansum(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    return _summed(torch.where(torch.isnan(x), torch.zeros_like(x), x), dim, keepdim).to(dtype or x.dtype)


def _nanmean(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    """NaN where there is nothing but NaN: 0 / 0."""
    count = _summed(torch.where(torch.isnan(x), torch.zeros_like(x), torch.ones_like(x)), dim, keepdim)
    return (_nansum(x, dim, keepdim) / count).to(dtype or x.dtype)


def _summed(x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """Over all axes where none is named."""
    axes = list(range(x.dim())) if dim is None or dim == [] else dim
    total: Tensor = x.sum(axes, keepdim=keepdim)
    return total


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """Each sum by the largest of its own numbers."""
    rows = x.movedim(dim, -1)
    count = rows.shape[-1]
    if rows.numel() * count > _MAX_PAIRS:
        return torch.logcumsumexp(x, dim)
    # (rows, sums, terms): each of the running sums is written out over all terms, those behind it masked.
    taken = torch.ones(count, count, dtype=torch.bool).tril()
    terms = torch.where(taken, rows.unsqueeze(-2), torch.tensor(torch.finfo(x.dtype).min))
    largest = terms.amax(-1, keepdim=True)
    # Not infinity less infinity, which is NaN: the largest stands for exp(0) by itself.
    below = torch.where(terms == largest, torch.zeros_like(terms), terms - largest)
    # Masked once more: where all terms taken are minus infinity, the masked ones are the largest, and exp(0) is 1.
    sums = torch.where(taken, torch.exp(below), torch.zeros_like(terms)).sum(-1)
    return (torch.log(sums) + largest.squeeze(-1)).movedim(-1, dim)


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """A number's place is the count of those that stand before it: equal ones stand in the order that they come in."""
    rows = x.movedim(dim, -1) if x.dim() else x.reshape(1)
    count = rows.shape[-1]
    if rows.numel() * count > _MAX_PAIRS:
        raise UnsupportedError(
            f"sorting {count} numbers in each of {rows.numel() // count} rows keeps no order of equal ones on iOS;"
            " topk of fewer does, and so does edge_device"
        )
    of_row, of_column = rows.unsqueeze(-1), rows.unsqueeze(-2)
    # (rows, numbers, numbers): each number against each other one of its row.
    is_before = of_column > of_row if descending else of_column < of_row
    is_alike = of_column == of_row
    if x.is_floating_point():  # NaN, which is before, behind and equal to nothing, is the largest of all
        row_is_nan, column_is_nan = torch.isnan(of_row), torch.isnan(of_column)
        is_larger = (column_is_nan & ~row_is_nan) if descending else (row_is_nan & ~column_is_nan)
        is_before, is_alike = is_before | is_larger, is_alike | (row_is_nan & column_is_nan)
    earlier = torch.ones(count, count, dtype=torch.bool).tril(-1)
    places = (is_before | (is_alike & earlier)).float().sum(-1)
    # The inverse of that permutation: which number has a place. One of each sum's terms is not zero, so it is exact.
    stands_at = places.unsqueeze(-2) == torch.arange(count).float().unsqueeze(-1)
    indices = (stands_at.float() * torch.arange(count).float()).sum(-1).to(torch.int64)
    return rows.gather(-1, indices).movedim(-1, dim), indices.movedim(-1, dim)


STABLE_ORDERS: Mapping[str, Callable[..., Any]] = {
    "aten.sort.stable": lambda x, *, stable, dim=-1, descending=False: _sort(x, dim, descending),
    "aten.argsort.stable": lambda x, *, stable, dim=-1, descending=False: _sort(x, dim, descending)[1],
}
"""For a converter whose format does not say in which order equal numbers stand."""

NUMBER_FORMS: Mapping[str, Callable[..., Any]] = {
    "aten.trunc.default": _trunc,
    "aten.fix.default": _trunc,
    "aten.round.decimals": _round_decimals,
    "aten.isinf.default": _isinf,
    "aten.isfinite.default": _isfinite,
    "aten.fmax.default": _or_the_other(torch.maximum),
    "aten.fmin.default": _or_the_other(torch.minimum),
    "aten.hypot.default": _hypot,
    "aten.signbit.default": is_below_zero,
    "aten.copysign.Tensor": _copysign,
    "aten.bitwise_or.Tensor": _of_truths(torch.logical_or, torch.bitwise_or),
    "aten.bitwise_xor.Tensor": _of_truths(torch.ne, torch.bitwise_xor),
    "aten.__or__.Tensor": _of_truths(torch.logical_or, torch.bitwise_or),
    "aten.__xor__.Tensor": _of_truths(torch.ne, torch.bitwise_xor),
    "aten.logical_xor.default": lambda x, y: (x != 0) != (y != 0),
    "aten.cosine_similarity.default": _cosine_similarity,
    "aten.logcumsumexp.default": _logcumsumexp,
    "aten.__lshift__.Scalar": _shifted_left,
    "aten.bitwise_left_shift.Tensor_Scalar": _shifted_left,
    "aten.__rshift__.Scalar": _shifted_right,
    "aten.bitwise_right_shift.Tensor_Scalar": _shifted_right,
    **{
        f"aten.{name}.Tensor": form
        for form, names in (
            (_shifted_left, ("__lshift__", "bitwise_left_shift")),
            (_shifted_right, ("__rshift__", "bitwise_right_shift")),
        )
        for name in names
    },
    "aten.bitwise_not.default": _bitwise_not,
    "aten.nansum.default": _nansum,
    "aten.nanmean.default": _nanmean,
}
"""By the operation's name: functions of its own arguments."""

"""Functions whose plain formulas lose digits or overflow, in operations that every converter takes.

log(1 + x) and exp(x) - 1 are zero where x is below the rounding of 1, and so are converters' own log1p, expm1, sinh and
inverse hyperbolic functions. Near zero, each is a short series here, of an argument held to where the series is used:
no branch overflows, in half precision neither.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch.nn import functional

from edgewright.export.number_forms import is_below_zero

__all__ = ["SPECIAL_FUNCTIONS"]

Tensor = torch.Tensor

_NEAR_ZERO = 0.25  # up to here by a series; beyond it, the rounding of 1 + x or exp(x) costs two bits
_FAR = 64.0  # from here on log(2x) and one more term: squares stay far from the largest half


def _real(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.float()


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    """By Horner's rule, the constant first."""
    last, *rest = reversed(coefficients)
    first = x * last + rest[0]
    return reduce(lambda value, coefficient: value * x + coefficient, rest[1:], first)


def _atanh_near_zero(x: Tensor) -> Tensor:
    return x * _polynomial(x * x, 1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9, 1 / 11)


def _log1p(x: Tensor) -> Tensor:
    """2 atanh(x / (2 + x)) near zero."""
    x = _real(x)
    near = x.clamp(-_NEAR_ZERO, _NEAR_ZERO)
    return torch.where(x.abs() < _NEAR_ZERO, _atanh_near_zero(near / (near + 2.0)) * 2.0, torch.log(x + 1.0))


def _expm1(x: Tensor) -> Tensor:
    """x / (x/2 coth(x/2) - x/2) near zero, the hyperbolic cotangent by its series."""
    x = _real(x)
    near = x.clamp(-_NEAR_ZERO, _NEAR_ZERO)
    # x/2 coth(x/2) = 1 + x^2/12 - x^4/720 + ...
    divisor = _polynomial(near * near, 1.0, 1 / 12, -1 / 720) - near * 0.5
    return torch.where(x.abs() < _NEAR_ZERO, near / divisor, torch.exp(x) - 1.0)


def _sinh(x: Tensor) -> Tensor:
    x = _real(x)
    near = x.clamp(-2 * _NEAR_ZERO, 2 * _NEAR_ZERO)
    series = near * _polynomial(near * near, 1.0, 1 / 6, 1 / 120, 1 / 5040)
    return torch.where(x.abs() < 2 * _NEAR_ZERO, series, torch.exp(x) * 0.5 - torch.exp(-x) * 0.5)


def _atanh(x: Tensor) -> Tensor:
    x = _real(x)
    series = _atanh_near_zero(x.clamp(-_NEAR_ZERO, _NEAR_ZERO))
    return torch.where(x.abs() < _NEAR_ZERO, series, torch.log((x + 1.0) / (1.0 - x)) * 0.5)


def _asinh(x: Tensor) -> Tensor:
    x = _real(x)
    size = x.abs()
    near = size.clamp(max=_FAR)
    squared = near * near
    # x + sqrt(x^2 + 1) is 1 + x + x^2 / (sqrt(x^2 + 1) + 1), of which log1p loses no digit near zero.
    of_near = _log1p(near + squared / (torch.sqrt(squared + 1.0) + 1.0))
    return torch.where(size < _FAR, of_near, _log_of_twice(size, 0.25)) * torch.sign(x)


def _acosh(x: Tensor) -> Tensor:
    """Below 1 it is NaN, by the root of a negative number."""
    x = _real(x)
    # x + sqrt(x^2 - 1) is 1 + a + sqrt(a (a + 2)) of a = x - 1, which is exact near 1.
    above = x.clamp(max=_FAR) - 1.0
    return torch.where(x < _FAR, _log1p(above + torch.sqrt(above * (above + 2.0))), _log_of_twice(x, -0.25))


def _log_of_twice(size: Tensor, share: float) -> Tensor:
    """log(2 size) + share / size^2."""
    inverse = torch.tensor(1.0) / size.clamp(min=1.0)
    return torch.log(size) + math.log(2) + inverse * inverse * share


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    scaled = x if beta == 1 else x * beta
    soft = torch.relu(scaled) + _log1p(torch.exp(-scaled.abs()))
    # Only exponentials of what is below zero are taken, so none overflows.
    return torch.where(scaled > threshold, x, soft if beta == 1 else soft / beta)


def _log_sigmoid(x: Tensor) -> Tensor:
    return -functional.softplus(-x)


def _logaddexp(x: Tensor, y: Tensor) -> Tensor:
    apart = torch.where(x == y, torch.zeros_like(x + y), x - y)  # of two equal infinities, too
    return torch.maximum(x, y) + _log1p(torch.exp(-apart.abs()))


def _logaddexp2(x: Tensor, y: Tensor) -> Tensor:
    return _logaddexp(x * math.log(2), y * math.log(2)) * (1 / math.log(2))


def _log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Not the logarithm of a softmax, which is zero 104 below the largest."""
    below = x - x.amax(dim, keepdim=True)
    return below - torch.log(torch.exp(below).sum(dim, keepdim=True))


def _erfc(x: Tensor) -> Tensor:
    """By a Chebyshev fit, to a fraction of 1.2e-7 everywhere (Press et al., Numerical Recipes, erfcc)."""
    size = x.abs()
    t = torch.tensor(1.0) / (size * 0.5 + 1.0)
    # fmt: off
    fit = _polynomial(
        t, -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
        -0.82215223, 0.17087277,
    )
    # fmt: on
    tail = t * torch.exp(fit - size * size)
    return torch.where(x < 0, 2.0 - tail, tail)


def _erfinv(x: Tensor) -> Tensor:
    """Giles, Approximating the erfinv function (GPU Computing Gems 2, 2010), the form for single precision."""
    w = -torch.log((1.0 - x) * (x + 1.0))
    # fmt: off
    middle = _polynomial(
        w.clamp(max=5.0) - 2.5, 1.50140941, 0.246640727, -0.00417768164, -0.00125372503, 0.00021858087,
        -4.39150654e-06, -3.5233877e-06, 3.43273939e-07, 2.81022636e-08,
    )
    tails = _polynomial(
        torch.sqrt(w.clamp(min=5.0)) - 3.0, 2.83297682, 1.00167406, 0.00943887047, -0.0076224613, 0.00573950773,
        -0.00367342844, 0.00134934322, 0.000100950558, -0.000200214257,
    )
    # fmt: on
    inverse = torch.where(w < 5.0, middle, tails) * x
    # At 1 and -1, w is infinite, and its polynomial is not the limit: a division gives the infinities.
    return torch.where(x.abs() == 1.0, x / (1.0 - x.abs()), inverse)


def _xlogy(x: Tensor, y: Tensor) -> Tensor:
    return _times_log(x, y, torch.log(y))


def _xlog1py(x: Tensor, y: Tensor) -> Tensor:
    return _times_log(x, y, _log1p(y))


def _times_log(x: Tensor, y: Tensor, logarithm: Tensor) -> Tensor:
    product = x * logarithm
    # torch's definition: 0 times log(0) is 0, 0 times log(NaN) is NaN.
    return torch.where((x == 0) & ~torch.isnan(y), torch.zeros_like(product), product)


def _fmod(x: Tensor, y: Tensor | float) -> Tensor:
    """What is left of the dividend, with its sign."""
    remainder = torch.remainder(x.abs(), y.abs() if isinstance(y, Tensor) else abs(y))
    return torch.where(x < 0, -remainder, remainder)


def _atan2(y: Tensor, x: Tensor) -> Tensor:
    """Where x is zero by the sign of y alone: a quotient has the sign of that zero as well. Two zeros have signs."""
    is_left = (x < 0) | ((y == 0) & is_below_zero(x))
    one = torch.ones_like(x)
    # Of two of one size it is 1 or -1, where the quotient of infinities is NaN; of two zeros it is not read.
    quotient = torch.where(y.abs() == x.abs(), torch.sign(y) * torch.sign(x), y / torch.where(x == 0, one, x))
    angle = torch.atan(quotient)
    turn = torch.where(is_below_zero(y), torch.full_like(y, -math.pi), torch.full_like(y, math.pi))
    turned = torch.where(x == 0, y, angle) + torch.where(is_left, turn, torch.zeros_like(turn))
    return torch.where((x == 0) & (y != 0), torch.sign(y) * (math.pi / 2), turned)


def _binary_cross_entropy_with_logits(
    x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    """By the logarithm of a sigmoid, not of an exponential, which is infinite beyond 88."""
    # -log(sigmoid(x)).
    loss = torch.relu(-x) + _log1p(torch.exp(-x.abs()))
    if pos_weight is not None:
        loss = loss * ((pos_weight - 1.0) * target + 1.0)
    loss = (1.0 - target) * x + loss
    if weight is not None:
        loss = loss * weight
    return (lambda: loss, loss.mean, loss.sum)[reduction]()


def _named(function: Callable[..., Any], *names: str) -> dict[str, Callable[..., Any]]:
    return {f"aten.{name}": function for name in names}


_FORMS: Sequence[dict[str, Callable[..., Any]]] = (
    _named(_log1p, "log1p.default", "special_log1p.default"),
    _named(_expm1, "expm1.default", "special_expm1.default"),
    _named(_sinh, "sinh.default"),
    _named(_atanh, "atanh.default", "arctanh.default"),
    _named(_asinh, "asinh.default", "arcsinh.default"),
    _named(_acosh, "acosh.default", "arccosh.default"),
    _named(_softplus, "softplus.default"),
    _named(_log_sigmoid, "log_sigmoid.default"),
    _named(_logaddexp, "logaddexp.default"),
    _named(_logaddexp2, "logaddexp2.default"),
    _named(_log_softmax, "log_softmax.int", "special_log_softmax.default"),
    _named(_erfc, "erfc.default", "special_erfc.default"),
    _named(_erfinv, "erfinv.default", "special_erfinv.default"),
    _named(lambda x: torch.pow(torch.tensor(2.0), x), "exp2.default", "special_exp2.default"),
    _named(_xlogy, "xlogy.Tensor", "special_xlogy.default"),
    _named(_xlog1py, "special_xlog1py.default"),
    _named(_atan2, "atan2.default", "arctan2.default"),
    _named(_binary_cross_entropy_with_logits, "binary_cross_entropy_with_logits.default"),
    _named(_fmod, "fmod.Tensor", "fmod.Scalar"),
)

SPECIAL_FUNCTIONS: Mapping[str, Callable[..., Any]] = {name: form for forms in _FORMS for name, form in forms.items()}
"""By the operation's name: functions of its own arguments."""

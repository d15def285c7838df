"""Element by element: arithmetic, comparison, activations."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgewright.export.mil_operators.arguments import Arguments

__all__ = ["OPERATORS"]

OperatorFunction = Callable[[Arguments], Tensor | list[Tensor]]


def _unary(function: Callable[[Tensor], Tensor]) -> OperatorFunction:
    return lambda a: function(a.tensor("x"))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> OperatorFunction:
    return lambda a: function(a.tensor("x"), a.tensor("y"))


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    # The specification keeps the operands' type; between integers the quotient is rounded down.
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "floor")


def _gelu(a: Arguments) -> Tensor:
    x, mode = a.tensor("x"), a.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _clamped_relu(a: Arguments) -> Tensor:
    x = a.tensor("x")
    return torch.where(x >= 0, x.clamp(max=a.number("beta")), (a.number("alpha") * x).clamp(max=a.number("beta")))


def _prelu(a: Arguments) -> Tensor:
    return functional.prelu(a.tensor("x"), a.tensor("alpha"))


def _softplus_parametric(a: Arguments) -> Tensor:
    x = a.tensor("x")
    # One number for each channel, the second axis.
    shape = [1, -1, *[1] * (x.dim() - 2)]
    alpha, beta = a.tensor("alpha").reshape(shape), a.tensor("beta").reshape(shape)
    return alpha * functional.softplus(beta * x)


def _select(a: Arguments) -> Tensor:
    return torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b"))


def _thresholded_relu(a: Arguments) -> Tensor:
    x = a.tensor("x")
    return torch.where(x >= a.number("alpha"), x, torch.zeros_like(x))


# Named alike, and meaning the same, in torch.
_SAME_IN_TORCH = (
    "abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "logical_not", "relu",
    "round", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
)  # fmt: skip

OPERATORS: dict[str, OperatorFunction] = {
    **{name: _unary(getattr(torch, name)) for name in _SAME_IN_TORCH},
    "identity": _unary(lambda x: x),
    "cast": _unary(lambda x: x),  # the evaluator gives each result the dtype that the program declares
    "relu6": _unary(functional.relu6),
    "silu": _unary(functional.silu),
    "softplus": _unary(functional.softplus),
    "softsign": _unary(functional.softsign),
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(_real_div),
    "floor_div": _binary(torch.floor_divide),
    "mod": _binary(torch.remainder),
    "pow": _binary(torch.pow),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": _binary(torch.logical_and),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "select": _select,
    "clip": lambda a: a.tensor("x").clamp(a.number("alpha"), a.number("beta")),
    "threshold": lambda a: a.tensor("x").clamp(min=a.number("alpha")),
    # The specification adds epsilon before the function, with a default that shows: 1 / 0.01 becomes 99.
    "inverse": lambda a: 1 / (a.tensor("x") + a.number("epsilon", 1e-4)),
    "log": lambda a: torch.log(a.tensor("x") + a.number("epsilon", 1e-45)),
    "rsqrt": lambda a: torch.rsqrt(a.tensor("x") + a.number("epsilon", 1e-12)),
    "leaky_relu": lambda a: functional.leaky_relu(a.tensor("x"), a.number("alpha", 0.01)),
    "elu": lambda a: functional.elu(a.tensor("x"), a.number("alpha", 1.0)),
    "gelu": _gelu,
    "prelu": _prelu,
    "clamped_relu": _clamped_relu,
    "thresholded_relu": _thresholded_relu,
    "softplus_parametric": _softplus_parametric,
    "linear_activation": lambda a: a.number("alpha") * a.tensor("x") + a.number("beta", 0.0),
    "scaled_tanh": lambda a: a.number("alpha", 1.0) * torch.tanh(a.number("beta", 1.0) * a.tensor("x")),
    "sigmoid_hard": lambda a: (a.number("alpha", 0.2) * a.tensor("x") + a.number("beta", 0.5)).clamp(0, 1),
    "softmax": lambda a: torch.softmax(a.tensor("x"), a.integer("axis", -1)),
}

"""Functions of numpy, by their names, as ONNX operators: what FunctionTransformer and a transformed target apply."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from edgewright.errors import UnsupportedError
from edgewright.intake.accurate_nodes import Nodes, write_expm1, write_log1p

__all__ = ["Elementwise", "function_name", "write_function"]


_FLOAT = 1  # onnx.TensorProto.FLOAT

Write = Callable[[Nodes, str], str]


def _operator(kind: str) -> Write:
    return lambda nodes, x: nodes.call(kind, x)


def _with(kind: str, number: float, before: str = "") -> Write:
    """``kind(x, number)``, after the operator ``before`` where one is named."""
    return lambda nodes, x: nodes.call(kind, nodes.call(before, x) if before else x, nodes.constant(number))


def _arcsin(nodes: Nodes, x: str) -> str:
    """By the tangent of half the angle, exact up to both ends."""
    # sin a = x makes tan(a / 2) = x / (1 + sqrt(1 - x^2)); the product keeps the digits that 1 - x^2 loses near 1.
    one = nodes.constant(1.0)
    squared = nodes.call("Mul", nodes.call("Sub", one, x), nodes.call("Add", one, x))
    half = nodes.call("Atan", nodes.call("Div", x, nodes.call("Add", one, nodes.call("Sqrt", squared))))
    return nodes.call("Mul", half, nodes.constant(2.0))


def _arccos(nodes: Nodes, x: str) -> str:
    """Of the magnitude, so that nothing is divided by zero; a right angle minus the arcsine would cancel near 1."""
    # cos a = x makes tan^2(a / 2) = (1 - x) / (1 + x).
    one, size = nodes.constant(1.0), nodes.call("Abs", x)
    squared = nodes.call("Div", nodes.call("Sub", one, size), nodes.call("Add", one, size))
    acute = nodes.call("Mul", nodes.call("Atan", nodes.call("Sqrt", squared)), nodes.constant(2.0))
    obtuse = nodes.call("Sub", nodes.constant(np.pi), acute)
    return nodes.call("Where", nodes.call("Less", x, nodes.constant(0.0)), obtuse, acute)


def _trunc(nodes: Nodes, x: str) -> str:
    return nodes.call("Mul", nodes.call("Sign", x), nodes.call("Floor", nodes.call("Abs", x)))


def _as_number(nodes: Nodes, truth: str) -> str:
    return nodes.call("Cast", truth, to=_FLOAT)


_WRITE: dict[str, Write] = {
    "arccos": _arccos,
    "arcsin": _arcsin,
    # Their formulas lose the digits of a small number; `edgewright.export.special_functions` keeps them at the exit.
    "arccosh": _operator("Acosh"),
    "arcsinh": _operator("Asinh"),
    "arctanh": _operator("Atanh"),
    "conjugate": _operator("Identity"),
    "degrees": _with("Mul", 180 / np.pi),
    "isnan": lambda nodes, x: _as_number(nodes, nodes.call("IsNaN", x)),
    "logical_not": lambda nodes, x: _as_number(nodes, nodes.call("Equal", x, nodes.constant(0.0))),
    "radians": _with("Mul", np.pi / 180),
    "trunc": _trunc,
    "log": _operator("Log"),
    "log1p": write_log1p,
    # ONNX has the natural logarithm and exponential alone.
    "log2": _with("Mul", 1 / np.log(2), "Log"),
    "log10": _with("Mul", 1 / np.log(10), "Log"),
    "exp": _operator("Exp"),
    "expm1": write_expm1,
    "exp2": lambda nodes, x: nodes.call("Exp", nodes.call("Mul", x, nodes.constant(np.log(2)))),
    "sqrt": _operator("Sqrt"),
    "square": lambda nodes, x: nodes.call("Mul", x, x),
    # A fractional power of a negative number is NaN: the root of its size, with its sign.
    "cbrt": lambda nodes, x: nodes.call(
        "Mul", nodes.call("Sign", x), nodes.call("Pow", nodes.call("Abs", x), nodes.constant(1 / 3))
    ),
    "absolute": _operator("Abs"),
    "fabs": _operator("Abs"),
    "negative": _operator("Neg"),
    "positive": _operator("Identity"),
    "reciprocal": lambda nodes, x: nodes.call("Div", nodes.constant(1.0), x),
    "sign": _operator("Sign"),
    "sin": _operator("Sin"),
    "cos": _operator("Cos"),
    "tan": _operator("Tan"),
    "arctan": _operator("Atan"),
    "sinh": _operator("Sinh"),
    "cosh": _operator("Cosh"),
    "tanh": _operator("Tanh"),
    "floor": _operator("Floor"),
    "ceil": _operator("Ceil"),
    # Halves go to the even number in both.
    "rint": _operator("Round"),
    "deg2rad": _with("Mul", np.pi / 180),
    "rad2deg": _with("Mul", 180 / np.pi),
}


class Elementwise(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A FunctionTransformer whose function is one of numpy's, by its name."""

    def __init__(self, function: str = "positive") -> None:
        self.function = function


def function_name(function: Any, what: str) -> str:
    """The name of a function that has operators; None is the identity.

    Raises:
        UnsupportedError: any other function.
    """
    if function is None:
        return "positive"
    name = str(getattr(function, "__name__", type(function).__name__))
    # Another callable may bear the name of one of numpy's.
    if not isinstance(function, np.ufunc) or name not in _WRITE:
        raise UnsupportedError(
            f"{what} with the function {name}: these of numpy have a path: {', '.join(sorted(_WRITE))}; apply another "
            "one to the data before the model"
        )
    return name


def write_function(nodes: Nodes, name: str, x: str) -> str:
    """Add a function of ``x`` to a graph; the name of its value."""
    return _WRITE[name](nodes, x)

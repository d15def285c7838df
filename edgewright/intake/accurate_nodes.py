"""log(1 + x) and exp(x) - 1 as ONNX operators that keep the digits of a small x.

ONNX has neither; by their plain formulas both are zero below the rounding of 1. The series are those of
`edgewright.export.special_functions`.
"""

from functools import reduce
from typing import Any, Protocol

__all__ = ["Nodes", "write_expm1", "write_log1p"]

# Up to here the first term that a series leaves out is below 1e-8 of the result, less than float32 rounds.
_NEAR_ZERO = 0.25


class Nodes(Protocol):
    """Whatever adds operators to a graph."""

    def call(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its output."""

    def constant(self, values: Any, dtype: Any = ...) -> str:
        """Add a constant; its name."""


def write_log1p(nodes: Nodes, x: str) -> str:
    """Add log(1 + x); the name of its value."""
    # Where computes both of its sides for every x: of a far one, the series would divide by zero (x = -2).
    near = _near(nodes, x)
    # log(1 + x) = 2 (s + s^3/3 + s^5/5 + ...) with s = x / (x + 2).
    half = nodes.call("Div", near, nodes.call("Add", near, nodes.constant(2.0)))
    doubled = nodes.call("Mul", half, nodes.constant(2.0))
    series = nodes.call("Mul", doubled, _in_squares(nodes, half, 1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9))
    far = nodes.call("Log", nodes.call("Add", x, nodes.constant(1.0)))
    return _chosen(nodes, x, series, far)


def write_expm1(nodes: Nodes, x: str, exponential: str = "") -> str:
    """Add exp(x) - 1; the name of its value. ``exponential`` is exp(x), where the graph has a better one than Exp's."""
    near = _near(nodes, x)
    # exp(x) - 1 = x / (1 - x/2 + x^2/12 - x^4/720 + ...), whose coefficients are Bernoulli's numbers.
    even = _in_squares(nodes, near, 1.0, 1 / 12, -1 / 720)
    divisor = nodes.call("Sub", even, nodes.call("Mul", near, nodes.constant(0.5)))
    far = nodes.call("Sub", exponential or nodes.call("Exp", x), nodes.constant(1.0))
    return _chosen(nodes, x, nodes.call("Div", near, divisor), far)


def _near(nodes: Nodes, x: str) -> str:
    return nodes.call("Max", nodes.call("Min", x, nodes.constant(_NEAR_ZERO)), nodes.constant(-_NEAR_ZERO))


def _in_squares(nodes: Nodes, x: str, *coefficients: float) -> str:
    """By Horner's rule, the constant first."""
    squared = nodes.call("Mul", x, x)

    def step(value: str, coefficient: float) -> str:
        return nodes.call("Add", nodes.call("Mul", value, squared), nodes.constant(coefficient))

    last, *rest = reversed(coefficients)
    return reduce(step, rest, nodes.constant(last))


def _chosen(nodes: Nodes, x: str, near: str, far: str) -> str:
    is_near = nodes.call("Less", nodes.call("Abs", x), nodes.constant(_NEAR_ZERO))
    return nodes.call("Where", is_near, near, far)

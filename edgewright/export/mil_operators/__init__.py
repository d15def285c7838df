"""The operators of the Model Intermediate Language, opset iOS 16, each as torch computes it in float32.

Semantics: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

import functools

from torch import Tensor

from edgewright.export.mil_operators import (
    constants,
    elementwise,
    images,
    layers,
    recurrent,
    reductions,
    scatter,
    shapes,
)
from edgewright.export.mil_operators.arguments import Arguments, MilOperand
from edgewright.export.mil_operators.elementwise import OperatorFunction

__all__ = ["OPERATORS", "Arguments", "MilOperand", "OperatorFunction"]


def _refusing_zeros(operator: OperatorFunction) -> OperatorFunction:
    """The same, where a size of zero that it divides by is told as the other operands that do not fit are."""

    @functools.wraps(operator)
    def computed(a: Arguments) -> Tensor | list[Tensor]:
        try:
            return operator(a)
        except ArithmeticError as e:
            raise ValueError(f"operands of a size or value that cannot be: {e}") from e

    return computed


_ALL: dict[str, OperatorFunction] = {
    **constants.OPERATORS,
    **elementwise.OPERATORS,
    **images.OPERATORS,
    **layers.OPERATORS,
    **recurrent.OPERATORS,
    **reductions.OPERATORS,
    **scatter.OPERATORS,
    **shapes.OPERATORS,
}
OPERATORS: dict[str, OperatorFunction] = {kind: _refusing_zeros(operator) for kind, operator in _ALL.items()}

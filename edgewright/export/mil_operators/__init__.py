"""The operators of the Model Intermediate Language, opset iOS 16, each as torch computes it in float32.

Semantics: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

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
from edgewright.export.mil_operators.arguments import Arguments, Operand
from edgewright.export.mil_operators.elementwise import Operator

__all__ = ["OPERATORS", "Arguments", "Operand", "Operator"]

OPERATORS: dict[str, Operator] = {
    **constants.OPERATORS,
    **elementwise.OPERATORS,
    **images.OPERATORS,
    **layers.OPERATORS,
    **recurrent.OPERATORS,
    **reductions.OPERATORS,
    **scatter.OPERATORS,
    **shapes.OPERATORS,
}

"""Constants that keep a logarithm from zero, and that half precision does not hold.

Converters raise 1e-10 to about the least that half precision has: log(x + 1e-10) of a zero is then -16.6 instead of
-23. Rows without zeros do not show it, so what adds such a constant and the logarithm of the sum stay float32.
Operators are named as ONNX and Core ML name them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewright.export.scaling import ScalingNode

__all__ = ["is_lost_guard", "steps_from_lost_guards"]

_GUARDS = {"ADD", "SUB", "MAX", "MAXIMUM", "CLIP"}
_MIN_NORMAL = 2.0**-14  # what is below has fewer digits, which a logarithm shows


def is_lost_guard(kind: str, constants: Iterable[NDArray[np.float32]], reader: str) -> bool:
    """Whether an operator gives ``reader``, a logarithm, a sum or a bound whose constant half precision loses."""
    numbers = [c for c in constants if c.dtype.kind == "f"]
    is_small = any(bool(((c != 0) & (np.abs(c) < _MIN_NORMAL)).any()) for c in numbers)
    return reader.upper() == "LOG" and kind.upper() in _GUARDS and is_small


def steps_from_lost_guards(steps: Sequence[ScalingNode]) -> list[ScalingNode]:
    """Those that add such a constant, and the logarithms that read what they give; ``steps`` are in order."""
    steps_by_result = {name: step for step in steps for name in step.results}
    selected_steps = list[ScalingNode]()
    for step in steps:
        givers = [steps_by_result[name] for name in step.values if name in steps_by_result]
        lost = [giver for giver in givers if is_lost_guard(giver.kind, giver.constants, step.kind)]
        selected_steps += [*lost, step] if lost else []
    return selected_steps

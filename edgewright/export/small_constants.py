"""Constants that keep a logarithm or a divisor from zero, and that half precision does not hold.

1e-10 is zero in half precision, or is raised to 1e-7: log(x + 1e-10) of a zero is then minus infinity or -16 instead of
-23, and x / max(x, 1e-12) of a zero is NaN. Rows without zeros do not show it, so what adds such a constant and what
reads the sum stay float32. Operators are named as ONNX and Core ML name them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewright.export.scaling import Step

__all__ = ["is_lost_guard", "steps_from_lost_guards"]

_GUARDS = {"ADD", "SUB", "MAX", "MAXIMUM", "CLIP"}
_LEAST_NORMAL = 2.0**-14  # what is below has fewer digits, which a logarithm shows
_ROUNDED_TO_ZERO = 2.0**-25
_LEAST_BY_READER = {"LOG": _LEAST_NORMAL} | dict.fromkeys(
    ("DIV", "REAL_DIV", "RECIPROCAL", "INVERSE", "RSQRT"), _ROUNDED_TO_ZERO
)


def is_lost_guard(kind: str, constants: Iterable[NDArray[np.float32]], reader: str) -> bool:
    """Whether an operator gives ``reader`` a sum or a bound whose constant half precision loses."""
    least = _LEAST_BY_READER.get(reader.upper(), 0.0)
    numbers = [c for c in constants if c.dtype.kind == "f"]
    return kind.upper() in _GUARDS and any(bool(((c != 0) & (np.abs(c) < least)).any()) for c in numbers)


def steps_from_lost_guards(steps: Sequence[Step]) -> list[Step]:
    """Those that add such a constant, and those that read what they give; ``steps`` are in order."""
    made = {name: step for step in steps for name in step.results}
    found = list[Step]()
    for step in steps:
        divisor = step.values[-1:] if step.kind.upper() in {"DIV", "REAL_DIV"} else step.values
        givers = [made[name] for name in divisor if name in made]
        lost = [giver for giver in givers if is_lost_guard(giver.kind, giver.constants, step.kind)]
        found += [*lost, step] if lost else []
    return found

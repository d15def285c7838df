"""Arithmetic that scales features before the first layer: it stays in float where activations are quantized.

Standardizing divides each feature by a spread of its own. In 8 bits those spreads would share one scale, in which the
smaller ones round to nothing: a logistic regression over standardized pixels was measured to answer 0.42 otherwise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Step", "feature_scaling"]

_ARITHMETIC = {"ADD", "SUB", "MUL", "DIV"}


@dataclass(frozen=True)
class Step:
    """One operator of a graph: its kind, the computed values it reads, its constants, the values that it gives."""

    kind: str
    values: tuple[str, ...]
    constants: tuple[NDArray[Any], ...]
    results: tuple[str, ...]


def feature_scaling(steps: Iterable[Step], inputs: Iterable[str]) -> list[Step]:
    """Those steps that compute with one constant a feature on nothing but the model's inputs, in order."""
    raw, found = set(inputs), list[Step]()
    for step in steps:
        if step.kind.upper() in _ARITHMETIC and step.values and set(step.values) <= raw:
            raw.update(step.results)
            if any(np.unique(constant).size > 1 for constant in step.constants):
                found.append(step)
    return found

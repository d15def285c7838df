"""Arithmetic that scales features before the first layer: it stays in float where activations are quantized.

Standardizing divides each feature by a spread of its own. In 8 bits those spreads would share one scale, in which the
smaller ones round to nothing: a logistic regression over standardized pixels was measured to answer 0.42 otherwise, and
a network whose first layer is a BatchNorm over columns of 1e-3 to 1e6 to answer every row alike. Picking columns and
laying them side by side comes before it in a table's model, and stays in float with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScalingNode", "feature_scaling"]

_ARITHMETIC = {"ADD", "SUB", "MUL", "DIV", "BATCHNORMALIZATION"}
# As ONNX and as LiteRT call them; what they give is as raw as what they take.
_PICKING = {
    *("GATHER", "ARRAYFEATUREEXTRACTOR", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "RESHAPE", "IDENTITY"),
    *("CONCAT", "CONCATENATION", "SQUEEZE", "UNSQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "GATHER_ND"),
}


@dataclass(frozen=True)
class ScalingNode:
    """One operator of a graph: its kind, the computed values it reads, its constants, the values that it gives."""

    kind: str
    values: tuple[str, ...]
    constants: tuple[NDArray[Any], ...]
    results: tuple[str, ...]


def feature_scaling(
    steps: Iterable[ScalingNode], inputs: Iterable[str], features: Iterable[str] = ()
) -> list[ScalingNode]:
    """Those steps that compute with one constant a feature on nothing but the model's inputs, in order.

    ``features`` are the inputs that are rows of features, not images or sequences: what picks among them counts, too.
    """
    raw, selected_steps, of_features = set(inputs), list[ScalingNode](), set(features)
    for step in steps:
        kind = step.kind.upper()
        if not step.values or not set(step.values) <= raw or kind not in _ARITHMETIC | _PICKING:
            continue
        picked = kind in _PICKING
        # A slice of an image is not a choice of columns.
        if picked and not set(step.values) <= of_features:
            continue
        raw.update(step.results)
        if set(step.values) <= of_features:
            of_features.update(step.results)
        # One number for all features, as 1 / 255 of pixels, keeps their proportions: it may be in 8 bits, and what it
        # gives is as raw.
        if picked or any(np.unique(constant).size > 1 for constant in step.constants):
            selected_steps.append(step)
    return selected_steps

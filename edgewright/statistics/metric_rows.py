"""What the metrics by name share: the rows that they are figured from, and the output that fits their answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Arrays",
    "Floats",
    "MisfitError",
    "Rows",
    "are_probabilities",
    "mean_of_defined",
    "only",
    "share",
    "threshold",
]

Floats = NDArray[np.float64]
Arrays = Mapping[str, Floats]
Rows = tuple[NDArray[Any], ...]  # each (N, ...)


class MisfitError(Exception):
    """Outputs or answers that a metric cannot read; the text says which."""


def only(outputs: Arrays, fits: Callable[[Floats], bool]) -> str:
    """The name of the one output that fits.

    Raises:
        MisfitError: none fits, or several do.
    """
    names = [name for name, array in outputs.items() if fits(array)]
    if len(names) != 1:
        raise MisfitError("no output fits" if not names else f"outputs {', '.join(names)} fit alike")
    return names[0]


def threshold(scores: Floats) -> float:
    """Of one score for two classes: a half between probabilities, zero between logits."""
    return 0.5 if scores.min(initial=0.0) >= 0 and scores.max(initial=0.0) <= 1 else 0.0


def are_probabilities(scores: Floats) -> bool:
    """Whether scores (..., C) are at least 0 and sum to 1 over the last axis."""
    return bool(scores.min(initial=0.0) >= 0 and np.allclose(scores.sum(axis=-1), 1, atol=1e-3))


def mean_of_defined(figures: Sequence[float]) -> float:
    """Of those that are defined."""
    defined = [figure for figure in figures if np.isfinite(figure)]
    return float(np.mean(defined)) if defined else float("nan")


def share(rows: Rows) -> float:
    """Of a count for each row, and of how many: the share over all rows; NaN of none."""
    right, counted = (int(array.sum()) for array in rows)
    return right / counted if counted else float("nan")

"""Which rows train, calibrate, validate and test; decided by the seed alone. No ML framework is imported here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import InputError

__all__ = ["Splits", "split_rows", "thinned"]

CALIBRATION_ROWS = 1000
"""Static quantization needs the range of activations: some hundred rows settle it."""
VALIDATION_ROWS = 2000
"""A choice between candidates by accuracy: its standard error is then about 1 percentage point at most."""
_VALIDATION_SHARE = 5

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Row numbers of each split; calibration rows are training rows, no others are in two splits."""

    train: Indices
    calibration: Indices
    validation: Indices
    test: Indices


def split_rows(y: NDArray[Any], *, test_fraction: float, seed: int, classes: bool) -> tuple[Indices, Indices]:
    """Row numbers (training, test), stratified where ``y`` holds classes; both in ascending order."""
    generator = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == c) for c in np.unique(y)] if classes else [np.arange(len(y))]
    test = np.concatenate([_share(generator.permutation(g), test_fraction) for g in groups])
    if len(test) == 0 or len(test) == len(y):
        raise InputError(f"{len(y)} rows leave nothing to test or nothing to calibrate with; give at least 10")
    return np.setdiff1d(np.arange(len(y)), test), np.sort(test)


def thinned(training: Indices, y: NDArray[Any], *, seed: int, classes: bool) -> tuple[Indices, Indices, Indices]:
    """Row numbers (train, calibration, validation) out of the training rows.

    A fifth is for validation, at most as many as are needed; calibration is a part of the rest, all of which trains.
    """
    # Another stream than the split's own, which draws from the same seed.
    generator = np.random.default_rng(seed + 1)
    order = _interleaved(training, y, generator) if classes else generator.permutation(training)
    # A choice between candidates needs a row.
    validation = min(VALIDATION_ROWS, max(len(order) // _VALIDATION_SHARE, 1))
    train = order[validation:]
    # Any beginning of the order holds the classes in their shares: the first thousand calibrate.
    return np.sort(train), np.sort(train[:CALIBRATION_ROWS]), np.sort(order[:validation])


def _share(order: Indices, fraction: float) -> Indices:
    return order[: round(len(order) * fraction)]


def _interleaved(rows: Indices, y: NDArray[Any], generator: np.random.Generator) -> Indices:
    """An order whose every beginning holds the classes in about their shares."""
    place = np.empty(len(rows))
    for c in np.unique(y[rows]):
        of_class = np.flatnonzero(y[rows] == c)
        # Evenly spaced places for each class, with a random start: sorted, they mix in proportion.
        place[generator.permutation(of_class)] = (np.arange(len(of_class)) + generator.random()) / len(of_class)
    return rows[np.argsort(place, kind="stable")]

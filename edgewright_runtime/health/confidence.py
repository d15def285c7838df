"""How sure a model is of an answer: calibrated probabilities, their margin and their entropy."""

from __future__ import annotations

import math

import numpy as np

from edgewright_runtime.bundle.manifest import CONFIDENCE_BINS, Calibration

__all__ = [
    "calibrated",
    "confidence_bins",
    "entropy_confidence",
    "margin_confidence",
    "population_stability_index",
    "stability_index_by_chance",
    "wilson_high",
]

_TINY = 1e-12
# A bin that the reference left empty would make any first visitor infinitely surprising.
_MIN_SHARE = 1e-4
_Z_95 = 1.959964
_CHI2_99 = 21.666  # 99% quantile of chi-squared with CONFIDENCE_BINS - 1 degrees of freedom


def calibrated(probabilities: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """Probabilities (N, classes) with the temperature applied; as they are where there is no calibration."""
    if calibration is None or calibration.temperature == 1.0:
        return probabilities
    logits = np.log(np.maximum(probabilities, _TINY)) / calibration.temperature
    # Less the row's largest: exp() cannot overflow, and the shares stay the same.
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def margin_confidence(probabilities: np.ndarray) -> np.ndarray:
    """The likeliest class's probability less the next one's, (N,) in 0-1."""
    top = np.sort(probabilities, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


def entropy_confidence(probabilities: np.ndarray) -> np.ndarray:
    """One less the entropy as a share of the largest possible one, (N,) in 0-1."""
    bits = -(probabilities * np.log(np.maximum(probabilities, _TINY))).sum(axis=1)
    return np.asarray(1 - bits / np.log(probabilities.shape[1]))


def confidence_bins(top: np.ndarray) -> np.ndarray:
    """Counts (10,) of the likeliest class's probabilities (N,) in equal bins of 0-1."""
    # A probability of exactly 1 belongs to the last bin.
    bins = np.minimum((top * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    return np.bincount(bins, minlength=CONFIDENCE_BINS)


def population_stability_index(reference: np.ndarray, counts: np.ndarray) -> float:
    """How far a histogram has moved from its reference; 0.1 is little, 0.25 is much (Siddiqi, Credit Risk Scorecards).

    ``reference`` holds counts or shares; ``counts`` is of the same bins, and an empty one is taken as half a row.
    """
    rows = float(np.sum(counts))
    expected = np.maximum(np.asarray(reference, float) / np.sum(reference), _MIN_SHARE)
    # An empty bin would make the logarithm infinite.
    actual = np.maximum(np.asarray(counts, float), 0.5) / rows
    return float(((actual - expected) * np.log(actual / expected)).sum())


def stability_index_by_chance(reference_rows: int, found_rows: int) -> float:
    """What `population_stability_index` stays below in 99 of 100 windows where nothing has moved.

    Without a change it is distributed as chi-squared times the sum of both inverse sizes (Yurdakul, Statistical
    Properties of Population Stability Index, 2018): of fifty rows about 0.4, more than what is called a change.
    """
    return _CHI2_99 * (1 / reference_rows + 1 / found_rows)


def wilson_high(share: float, rows: int) -> float:
    """Upper bound of the 95% Wilson score interval of a share (0-1) that ``rows`` rows showed."""
    z2 = _Z_95**2
    centre = share + z2 / (2 * rows)
    spread = _Z_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    # Rounding can put the bound of a share of 1 just below it, where it would miss a limit of 1.
    return min(1.0, max((centre + spread) / (1 + z2 / rows), share))

"""What a classifier's confidence is worth: one temperature, fitted on validation rows, and the reference histogram."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset, Exported, ImportedModel, ModelTask
from edgewright.package.golden import answers_of
from edgewright_runtime.bundle.manifest import Calibration, Scores
from edgewright_runtime.health.confidence import calibrated, confidence_bins
from edgewright_runtime.predict.encoding import dequantize, quantize
from edgewright_runtime.predict.predictor import probabilities

__all__ = ["calibrate"]

_MAX_ROWS = 1000
_MIN_ROWS = 30  # one temperature from fewer rows says more of the rows than of the model
# Temperatures that are tried: beyond them posteriors are as good as uniform or as one-hot.
_LOW, _HIGH = 0.05, 20.0
# Each step leaves 0.618 of the interval: these leave less than 1e-12 of it.
_STEPS = 60
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def calibrate(
    model: ImportedModel, dataset: Dataset, exported: Exported, scores: Scores, scratch: Path
) -> Calibration | None:
    """Run the exported file on validation rows and fit the temperature of least negative log-likelihood.

    None for regressors, for models that give classes alone, where there are too few validation rows, and where
    nothing here runs the file: confidence is then the model's own, uncalibrated.
    """
    if model.task is not ModelTask.CLASSIFICATION or scores.kind == "classes":
        return None
    with np.load(dataset.artifact.path, allow_pickle=False) as stored:
        names = {spec.name: f"validation.x.{spec.name}" for spec in exported.inputs}
        if "validation.y" not in stored.files or not set(names.values()) <= set(stored.files):
            return None
        truth = stored["validation.y"][:_MAX_ROWS].astype(np.int64)
        rows = {spec.name: quantize(stored[names[spec.name]][:_MAX_ROWS], spec) for spec in exported.inputs}
    if len(truth) < _MIN_ROWS:
        return None
    answered = answers_of(exported, rows, scratch)
    if answered is None:
        return None
    spec = next(spec for spec in exported.outputs if spec.name == scores.output)
    shown = probabilities(dequantize(answered[0][spec.name], spec).astype(np.float64), scores.kind)
    # A label that the model has no score for.
    if truth.min() < 0 or truth.max() >= shown.shape[1]:
        return None
    temperature = round(_best_temperature(shown, truth), 4)
    posteriors = calibrated(shown, Calibration(temperature, (), len(truth)))
    counts = confidence_bins(posteriors.max(axis=1))
    return Calibration(temperature, tuple(float(c) for c in counts / counts.sum()), len(truth))


def _best_temperature(shown: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Golden-section search over log temperature; the loss has one minimum there."""
    low, high = np.log(_LOW), np.log(_HIGH)
    for _ in range(_STEPS):
        left, right = high - _GOLDEN_RATIO * (high - low), low + _GOLDEN_RATIO * (high - low)
        if _loss(shown, truth, float(np.exp(left))) < _loss(shown, truth, float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def _loss(shown: NDArray[np.float64], truth: NDArray[np.int64], temperature: float) -> float:
    posteriors = calibrated(shown, Calibration(temperature, (), len(truth)))
    # A posterior may be 0, which has no logarithm.
    return float(-np.log(np.maximum(posteriors[np.arange(len(truth)), truth], 1e-12)).mean())

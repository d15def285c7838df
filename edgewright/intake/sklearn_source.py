"""A fitted scikit-learn model: what it says, and its ONNX form. Runs in a child process."""

import warnings
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.errors import InputError
from edgewright.intake.decision_threshold import decision_threshold
from edgewright.intake.estimator_graph import classes_of

__all__ = ["FEATURES", "answers", "fitted_names", "to_onnx"]

FEATURES = "features"


def fitted_names(estimator: Any) -> list[str] | None:
    """The columns that the model was fitted on, in order; None where it was fitted on bare arrays."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or [str(n) for n in names] == [f"Column_{i}" for i in range(len(names))]:
        return None  # LightGBM gives the columns of an array such names
    return [str(n) for n in names]


def answers(estimator: Any, rows: Any) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """What the model itself says of rows: scores (N, classes) or values (N, 1), and its `predict`.

    Raises:
        InputError: scikit-learn refuses the rows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # feature names and versions are judged here, not by warnings
        try:
            predicted = np.asarray(estimator.predict(rows))
            scores = _scores(estimator, rows)
        except Exception as e:  # what the parts of a model raise has no limit
            message = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise InputError(f"the model refuses its own data: {message}") from e
    if scores is None and classes_of(estimator) is not None:
        scores = predicted[:, None] == classes_of(estimator)  # a vote by heads has no scores but its outcome
    elif scores is None:
        scores = predicted
    scores = np.asarray(scores, dtype=np.float64)
    return scores.reshape(len(scores), -1), predicted


def _scores(estimator: Any, rows: Any) -> Any:
    """A classifier's scores; None for what has none, and for a mixture, whose probabilities are of no class."""
    threshold = decision_threshold(estimator)
    if threshold is not None:
        return threshold.scores(getattr(estimator, threshold.method)(rows))
    if hasattr(estimator, "predict_proba") and classes_of(estimator) is not None:
        return estimator.predict_proba(rows)
    return _decision(estimator, rows)


def _decision(estimator: Any, rows: Any) -> Any:
    """Scores of a classifier without probabilities; a binary one has a single column: two classes need two."""
    if not hasattr(estimator, "classes_") or not hasattr(estimator, "decision_function"):
        return None
    scores = np.asarray(estimator.decision_function(rows))
    # Binary decision functions are positive for the second class.
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def to_onnx(model: Any, features: int, *, decimals: bool) -> onnx.ModelProto:
    """ONNX by skl2onnx over ``features`` (N, features) float32, with one output: scores or values.

    ``decimals``: the numbers are those of a table (see `exact_trees`).

    Raises:
        UnsupportedError: a part of the model has no converter.
        ConversionError: one failed.
    """
    from skl2onnx.common.data_types import FloatTensorType

    from edgewright.intake.composite_graph import Conversion

    exported = Conversion([(FEATURES, FloatTensorType([None, features]))], decimals).deciding(model)
    del exported.graph.value_info[:]
    return exported

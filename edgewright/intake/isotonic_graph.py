"""What calibration makes of a classifier's scores, as ONNX operators; after `sklearn.calibration`."""

from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright.intake.assembly import Assembly

__all__ = ["calibrated"]


def calibrated(made: Assembly, fold: Any, scores: str, *, decision: bool) -> str:
    """Probabilities (N, classes) of one fold.

    ``scores``: the fold's classifier's decisions, (N, 1) for two classes, or where not ``decision`` its probabilities.
    """
    classes = len(fold.classes)
    if len(fold.estimator.classes_) != classes:
        raise UnsupportedError("CalibratedClassifierCV: a fold that has not seen every class")
    if fold.method == "temperature":
        return _by_temperature(made, fold.calibrators[0].beta_, scores, classes, decision=decision)
    first = 1 if classes == 2 else 0  # of two classes only the second is calibrated
    columns = []
    for index, calibrator in enumerate(fold.calibrators, first):
        alone = scores if classes == 2 and decision else _column(made, scores, [index])
        rest = None if decision else _column(made, scores, [i for i in range(classes) if i != index])
        columns.append(_by_sigmoid(made, calibrator, alone) if fold.method == "sigmoid" else
                       isotonic(made, calibrator, alone, rest))  # fmt: skip
    if classes == 2:
        return made.call("Concat", made.call("Sub", made.constant(1.0), columns[0]), columns[0], axis=1)
    joined = made.call("Concat", *columns, axis=1)
    total = made.call("ReduceSum", joined, made.constant([1], np.int64), keepdims=1)
    # Where every class is improbable, all are equally so.
    none = made.call("Equal", total, made.constant(0.0))
    shares = made.call("Div", joined, made.call("Where", none, made.constant(1.0), total))
    return made.call("Where", none, made.constant(1 / classes), shares)


def _column(made: Assembly, scores: str, indices: list[int]) -> str:
    return made.call("Gather", scores, made.constant(indices, np.int64), axis=1)


def _by_sigmoid(made: Assembly, calibrator: Any, score: str) -> str:
    """Platt: 1 / (1 + exp(a s + b))."""
    slope, shift = made.constant(-calibrator.a_), made.constant(-calibrator.b_)
    return made.call("Sigmoid", made.call("Add", made.call("Mul", score, slope), shift))


def _by_temperature(made: Assembly, beta: float, scores: str, classes: int, *, decision: bool) -> str:
    """Softmax of the logits over a temperature (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
    if not decision:
        # As scikit-learn keeps off log(0).
        logits = made.call("Log", made.call("Add", scores, made.constant(1e-12)))
    elif classes == 2:
        logits = made.call("Concat", made.call("Neg", scores), scores, axis=1)
    else:
        logits = scores
    return made.call("Softmax", made.call("Mul", logits, made.constant(beta)), axis=1)


def isotonic(made: Assembly, calibrator: Any, score: str, rest: str | None) -> str:
    """(N, 1): the fitted line through the thresholds, as the first value and what each segment adds to it.

    ``rest``: the probabilities of the other classes. Above one half the distance to a threshold is taken from their
    sum: near 1 float32 knows them far better than it knows their difference from 1.
    """
    x, y = calibrator.X_thresholds_, calibrator.y_thresholds_
    if len(y) == 1:
        return made.call("Add", made.call("Mul", score, made.constant(0.0)), made.constant(y[0]))
    beyond = made.call("Sub", score, made.constant([x[:-1]]))
    if rest is not None:
        other = made.call("ReduceSum", rest, made.constant([1], np.int64), keepdims=1)
        from_above = made.call("Sub", made.constant([1 - x[:-1].astype(np.float64)]), other)
        beyond = made.call("Where", made.call("Greater", score, made.constant(0.5)), from_above, beyond)
    # A segment that float32 takes for a point is a step.
    widths = np.maximum(np.diff(x.astype(np.float64)), np.finfo(np.float32).tiny)
    share = made.call("Clip", made.call("Div", beyond, made.constant([widths])), made.constant(0.0), made.constant(1.0))
    risen = made.call("MatMul", share, made.constant(np.diff(y)[:, None]))
    return made.call("Add", risen, made.constant(y[0]))

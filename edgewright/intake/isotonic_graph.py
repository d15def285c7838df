"""What calibration makes of a classifier's scores, as ONNX operators; after `sklearn.calibration`."""

from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright.intake.assembly import Assembly

__all__ = ["calibrated"]


def calibrated(assembly: Assembly, fold: Any, scores: str, *, decision: bool) -> str:
    """Probabilities (N, classes) of one fold.

    ``scores``: the fold's classifier's decisions, (N, 1) for two classes, or where not ``decision`` its probabilities.
    """
    classes = len(fold.classes)
    if len(fold.estimator.classes_) != classes:
        raise UnsupportedError("CalibratedClassifierCV: a fold that has not seen every class")
    if fold.method == "temperature":
        return _by_temperature(assembly, fold.calibrators[0].beta_, scores, classes, decision=decision)
    first = 1 if classes == 2 else 0  # of two classes only the second is calibrated
    columns = []
    for index, calibrator in enumerate(fold.calibrators, first):
        alone = scores if classes == 2 and decision else _column(assembly, scores, [index])
        rest = None if decision else _column(assembly, scores, [i for i in range(classes) if i != index])
        columns.append(_by_sigmoid(assembly, calibrator, alone) if fold.method == "sigmoid" else
                       isotonic(assembly, calibrator, alone, rest))  # fmt: skip
    if classes == 2:
        return assembly.call("Concat", assembly.call("Sub", assembly.constant(1.0), columns[0]), columns[0], axis=1)
    joined = assembly.call("Concat", *columns, axis=1)
    total = assembly.call("ReduceSum", joined, assembly.constant([1], np.int64), keepdims=1)
    # Where every class is improbable, all are equally so.
    none = assembly.call("Equal", total, assembly.constant(0.0))
    shares = assembly.call("Div", joined, assembly.call("Where", none, assembly.constant(1.0), total))
    return assembly.call("Where", none, assembly.constant(1 / classes), shares)


def _column(assembly: Assembly, scores: str, indices: list[int]) -> str:
    return assembly.call("Gather", scores, assembly.constant(indices, np.int64), axis=1)


def _by_sigmoid(assembly: Assembly, calibrator: Any, score: str) -> str:
    """Platt: 1 / (1 + exp(a s + b))."""
    slope, shift = assembly.constant(-calibrator.a_), assembly.constant(-calibrator.b_)
    return assembly.call("Sigmoid", assembly.call("Add", assembly.call("Mul", score, slope), shift))


def _by_temperature(assembly: Assembly, beta: float, scores: str, classes: int, *, decision: bool) -> str:
    """Softmax of the logits over a temperature (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
    if not decision:
        # As scikit-learn keeps off log(0).
        logits = assembly.call("Log", assembly.call("Add", scores, assembly.constant(1e-12)))
    elif classes == 2:
        logits = assembly.call("Concat", assembly.call("Neg", scores), scores, axis=1)
    else:
        logits = scores
    return assembly.call("Softmax", assembly.call("Mul", logits, assembly.constant(beta)), axis=1)


def isotonic(assembly: Assembly, calibrator: Any, score: str, rest: str | None) -> str:
    """(N, 1): the fitted line through the thresholds, as the first value and what each segment adds to it.

    ``rest``: the probabilities of the other classes. Above one half the distance to a threshold is taken from their
    sum: near 1 float32 knows them far better than it knows their difference from 1.
    """
    x, y = calibrator.X_thresholds_, calibrator.y_thresholds_
    if len(y) == 1:
        return assembly.call("Add", assembly.call("Mul", score, assembly.constant(0.0)), assembly.constant(y[0]))
    beyond = assembly.call("Sub", score, assembly.constant([x[:-1]]))
    if rest is not None:
        other = assembly.call("ReduceSum", rest, assembly.constant([1], np.int64), keepdims=1)
        from_above = assembly.call("Sub", assembly.constant([1 - x[:-1].astype(np.float64)]), other)
        beyond = assembly.call("Where", assembly.call("Greater", score, assembly.constant(0.5)), from_above, beyond)
    # A segment that float32 takes for a point is a step.
    widths = np.maximum(np.diff(x.astype(np.float64)), np.finfo(np.float32).tiny)
    share = assembly.call(
        "Clip",
        assembly.call("Div", beyond, assembly.constant([widths])),
        assembly.constant(0.0),
        assembly.constant(1.0),
    )
    risen = assembly.call("MatMul", share, assembly.constant(np.diff(y)[:, None]))
    return assembly.call("Add", risen, assembly.constant(y[0]))

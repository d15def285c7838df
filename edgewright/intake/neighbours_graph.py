"""Nearest neighbours as ONNX operators; after `sklearn.neighbors`.

Squared distances by a product of matrices (ONNX Runtime's CDist) lose what small distances between large features are
made of, so they only choose candidates; the distances that decide are computed from differences.
"""

from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright.intake.assembly import Assembly

__all__ = ["neighbours"]

_BROADCAST = 1 << 16
"""Training rows times features up to which all differences are computed: 256 KB for each row asked about."""
# Candidates beside twice the neighbours asked for: rough distances may order the nearest wrongly.
_SPARE = 8


def neighbours(assembly: Assembly, model: Any, features: str) -> tuple[str, int]:
    """Shares of the classes among the nearest training rows, or the mean of their targets; and its columns.

    Raises:
        UnsupportedError: a metric or weighting without a path here, or too many rows for one.
    """
    rows = model._fit_X
    if not isinstance(rows, np.ndarray):
        raise UnsupportedError(f"{type(model).__name__} fitted on sparse rows; fit it on a dense array")
    if model.weights not in {"uniform", "distance", None}:
        raise UnsupportedError(f"{type(model).__name__} with weights of its own; take 'uniform' or 'distance'")
    power = _power(model)
    # Only squared distances have an operator that chooses candidates; other metrics take every difference.
    if rows.size <= _BROADCAST or power != 2:
        _refuse_too_many(model, rows)
        every = assembly.call("Unsqueeze", features, assembly.constant([1], np.int64))
        distances = _distances(assembly, assembly.call("Sub", every, assembly.constant(rows[None])), power)
        near, index = _nearest(assembly, distances, model.n_neighbors)
    else:
        near, index = _refined(assembly, features, rows, model.n_neighbors)
    weights = None if model.weights != "distance" else _inverse(assembly, near)
    if hasattr(model, "classes_"):
        return _shares(assembly, model, index, weights)
    return _mean(assembly, model, index, weights)


def _power(model: Any) -> float:
    """The exponent of the Minkowski metric, of which the other known ones are cases."""
    named = {"euclidean": 2.0, "l2": 2.0, "manhattan": 1.0, "l1": 1.0, "cityblock": 1.0, "chebyshev": np.inf}
    metric = model.effective_metric_
    if metric == "minkowski" and model.effective_metric_params_.get("w") is None:
        return float(model.effective_metric_params_.get("p", model.p))
    if metric not in named:
        raise UnsupportedError(
            f"{type(model).__name__} with metric {metric!r}; known are euclidean, manhattan, chebyshev, minkowski"
        )
    return named[metric]


def _refuse_too_many(model: Any, rows: Any) -> None:
    if rows.size > _BROADCAST * 8:
        raise UnsupportedError(
            f"{type(model).__name__}: {len(rows)} training rows of {rows.shape[1]} features need "
            f"{rows.size * 4 >> 20} MB for each row asked about; at most {_BROADCAST * 8 * 4 >> 20} MB, or euclidean"
        )


def _distances(assembly: Assembly, apart: str, power: float) -> str:
    """(N, V, F) -> (N, V)."""
    axis = assembly.constant([2], np.int64)
    # The usual exponents by operators that round less than Pow and its root.
    if power == 2:
        return assembly.call("Sqrt", assembly.call("ReduceSum", assembly.call("Mul", apart, apart), axis, keepdims=0))
    apart = assembly.call("Abs", apart)
    if power == np.inf:
        return assembly.call("ReduceMax", apart, axis, keepdims=0)
    if power == 1:
        return assembly.call("ReduceSum", apart, axis, keepdims=0)
    total = assembly.call("ReduceSum", assembly.call("Pow", apart, assembly.constant(power)), axis, keepdims=0)
    return assembly.call("Pow", total, assembly.constant(1 / power))


def _nearest(assembly: Assembly, distances: str, count: int) -> tuple[str, ...]:
    return assembly.several(2, "TopK", distances, assembly.constant([count], np.int64), axis=1, largest=0, sorted=1)


def _refined(assembly: Assembly, features: str, rows: Any, count: int) -> tuple[str, str]:
    """The nearest among a few more candidates, by exact distances."""
    # Centred rows have smaller squares, so that less is lost where x^2 - 2xy + y^2 nearly cancels.
    centre = rows.mean(axis=0)
    middle = assembly.constant(rows - centre)
    centred = assembly.call("Sub", features, assembly.constant(centre))
    rough = assembly.call("CDist", centred, middle, domain="com.microsoft", metric="sqeuclidean")
    # TopK fails where it is asked for more than there are.
    _, candidates = _nearest(assembly, rough, min(2 * count + _SPARE, len(rows)))
    chosen = assembly.call("Gather", assembly.constant(rows), candidates, axis=0)
    apart = assembly.call("Sub", assembly.call("Unsqueeze", features, assembly.constant([1], np.int64)), chosen)
    near, position = _nearest(assembly, _distances(assembly, apart, 2), count)
    return near, assembly.call("GatherElements", candidates, position, axis=1)


def _inverse(assembly: Assembly, near: str) -> str:
    """1 / distance; where a neighbour is at no distance at all, such neighbours alone count."""
    zero = assembly.call("Equal", near, assembly.constant(0.0))
    same = assembly.call("Cast", zero, to=1)
    any_same = assembly.call("ReduceMax", same, assembly.constant([1], np.int64), keepdims=1)
    # The division is computed for every neighbour; 1 stands in for a distance of 0, which Where then overrules.
    inverse = assembly.call("Div", assembly.constant(1.0), assembly.call("Where", zero, assembly.constant(1.0), near))
    return assembly.call("Where", assembly.call("Greater", any_same, assembly.constant(0.0)), same, inverse)


def _shares(assembly: Assembly, model: Any, index: str, weights: str | None) -> tuple[str, int]:
    classes = len(model.classes_)
    hot = assembly.constant(np.eye(classes)[model._y])
    return _normalized(assembly, assembly.call("Gather", hot, index, axis=0), weights, model.n_neighbors), classes


def _mean(assembly: Assembly, model: Any, index: str, weights: str | None) -> tuple[str, int]:
    targets = np.asarray(model._y, dtype=np.float64).reshape(len(model._y), -1)
    nearest_targets = assembly.call("Gather", assembly.constant(targets), index, axis=0)
    return _normalized(assembly, nearest_targets, weights, model.n_neighbors), targets.shape[1]


def _normalized(assembly: Assembly, values: str, weights: str | None, count: int) -> str:
    """(N, k, columns) and weights (N, k) -> their mean (N, columns)."""
    axis = assembly.constant([1], np.int64)
    if weights is None:
        total = assembly.call("ReduceSum", values, axis, keepdims=0)
        return assembly.call("Mul", total, assembly.constant(1 / count))
    wide = assembly.call("Unsqueeze", weights, assembly.constant([2], np.int64))
    total = assembly.call("ReduceSum", assembly.call("Mul", values, wide), axis, keepdims=0)
    return assembly.call("Div", total, assembly.call("ReduceSum", weights, axis, keepdims=1))

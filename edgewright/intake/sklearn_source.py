"""A fitted scikit-learn model: what it takes, what it says, and its ONNX form. Runs in a child process."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.errors import InputError, UnsupportedError
from edgewright.intake.estimator_graph import classes_of
from edgewright.intake.table_graph import FEATURES

__all__ = ["ColumnKind", "answers", "columns_of", "to_onnx"]


@dataclass(frozen=True)
class ColumnKind:
    """A column of the raw table; ``categories`` is None for a number."""

    name: str
    categories: tuple[Any, ...] | None


def columns_of(estimator: Any) -> tuple[ColumnKind, ...] | None:
    """The columns that the model was fitted on, in order; None where it was fitted on bare arrays."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or [str(n) for n in names] == [f"Column_{i}" for i in range(len(names))]:
        return None  # LightGBM gives the columns of an array such names
    categories: dict[str, tuple[Any, ...]] = {}
    _collect(estimator, [str(n) for n in names], categories)
    return tuple(ColumnKind(str(n), categories.get(str(n))) for n in names)


def _collect(estimator: Any, columns: Sequence[str], found: dict[str, tuple[Any, ...]]) -> None:
    """Note the text categories that a fitted encoder knows of each column."""
    fitted = getattr(estimator, "categories_", None)
    if fitted is not None and len(fitted) == len(columns):
        for column, values in zip(columns, fitted, strict=True):
            if np.asarray(values).dtype.kind in "OUS":
                found[column] = tuple(values)
    if hasattr(estimator, "transformers_"):
        names = [str(n) for n in getattr(estimator, "feature_names_in_", columns)]
        for _, part, chosen in estimator.transformers_:
            if not isinstance(part, str):
                _collect(part, _chosen(chosen, names), found)
    elif hasattr(estimator, "steps"):
        for _, step in estimator.steps:
            if isinstance(step, str) or step is None:
                continue
            _collect(step, columns, found)
            if not _keeps_columns(step):
                break
    else:
        for part in _parts(estimator):
            _collect(part, columns, found)


def _chosen(chosen: Any, names: Sequence[str]) -> list[str]:
    if isinstance(chosen, (str, int)):
        chosen = [chosen]
    if isinstance(chosen, slice):
        return list(names[chosen])
    picked = list(chosen)
    if picked and isinstance(picked[0], (bool, np.bool_)):
        return [n for n, keep in zip(names, picked, strict=True) if keep]
    return [c if isinstance(c, str) else names[int(c)] for c in picked]


def _keeps_columns(step: Any) -> bool:
    return getattr(step, "n_features_in_", None) is not None and type(step).__name__ in {
        "SimpleImputer",
        "StandardScaler",
    }


def _parts(estimator: Any) -> Iterator[Any]:
    """The fitted models that an ensemble, a calibrated or a searched model is made of."""
    for name in ("best_estimator_", "estimator_", "final_estimator_"):
        if hasattr(estimator, name):
            yield getattr(estimator, name)
    for part in (
        getattr(estimator, "estimators_", []) if type(estimator).__name__.startswith(("Voting", "Stacking")) else []
    ):
        if not isinstance(part, str):
            yield part
    for part in getattr(estimator, "calibrated_classifiers_", []):
        yield part.estimator


def answers(estimator: Any, rows: Any) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """What the model itself says of rows: scores (N, classes) or values (N, 1), and its `predict`.

    Raises:
        InputError: scikit-learn refuses the rows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # feature names and versions are judged here, not by warnings
        try:
            predicted = np.asarray(estimator.predict(rows))
            scores = (
                estimator.predict_proba(rows) if hasattr(estimator, "predict_proba") else _decision(estimator, rows)
            )
        except (ValueError, TypeError) as e:
            raise InputError(f"the model refuses its own data: {str(e).splitlines()[0]}") from e
    if scores is None and classes_of(estimator) is not None:
        scores = predicted[:, None] == classes_of(estimator)  # a vote by heads has no scores but its outcome
    elif scores is None:
        scores = predicted
    scores = np.asarray(scores, dtype=np.float64)
    return scores.reshape(len(scores), -1), predicted


def _decision(estimator: Any, rows: Any) -> Any:
    """Scores of a classifier without probabilities; a binary one has a single column: two classes need two."""
    if not hasattr(estimator, "classes_") or not hasattr(estimator, "decision_function"):
        return None
    scores = np.asarray(estimator.decision_function(rows))
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def to_onnx(estimator: Any, columns: Sequence[ColumnKind] | None, *, decimals: bool) -> onnx.ModelProto:
    """ONNX by skl2onnx; each text column is an input of its own, with one output: scores or values.

    Raises:
        UnsupportedError: a part of the model has no converter.
        ConversionError: one failed.
    """
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    from edgewright.intake.composite_graph import Conversion

    kinds = [FloatTensorType if c.categories is None else StringTensorType for c in columns or ()]
    if columns is not None and _takes_columns_apart(estimator):
        types = [(c.name, kind([None, 1])) for c, kind in zip(columns, kinds, strict=True)]
    elif len(set(kinds)) > 1:
        raise UnsupportedError(f"{type(estimator).__name__}: text and numbers in one matrix; use a ColumnTransformer")
    else:
        types = [(FEATURES, (kinds[0] if kinds else FloatTensorType)([None, estimator.n_features_in_]))]
    return Conversion(types, decimals).graph(estimator)


def _takes_columns_apart(estimator: Any) -> bool:
    """Whether a ColumnTransformer stands where the table comes in."""
    if hasattr(estimator, "transformers_"):
        return True
    if hasattr(estimator, "steps"):
        real = [step for _, step in estimator.steps if not isinstance(step, str) and step is not None]
        return bool(real) and _takes_columns_apart(real[0])
    return any(_takes_columns_apart(part) for part in _parts(estimator))

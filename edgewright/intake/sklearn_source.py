"""A fitted scikit-learn model: what it takes, what it says, and its ONNX form. Runs in a child process."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.intake.exact_trees import with_float32_thresholds
from edgewright.intake.onnx_nodes import drop_unused
from edgewright.intake.table_graph import FEATURES

__all__ = ["ColumnKind", "answers", "classes_of", "columns_of", "to_onnx"]

_OPSETS = {"": 18, "ai.onnx.ml": 3}
SCORES, PREDICTION = "probabilities", "prediction"


@dataclass(frozen=True)
class ColumnKind:
    """A column of the raw table; ``categories`` is None for a number."""

    name: str
    categories: tuple[Any, ...] | None


def columns_of(estimator: Any) -> tuple[ColumnKind, ...] | None:
    """The columns that the model was fitted on, in order; None where it was fitted on bare arrays."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return None
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


def classes_of(estimator: Any) -> NDArray[Any] | None:
    """A classifier's classes in the order of its scores; None for other models."""
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return None
    if isinstance(classes, list):
        raise UnsupportedError(f"{type(estimator).__name__} predicts {len(classes)} targets at once; one is supported")
    return np.asarray(classes)


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
    if scores is None:
        scores = predicted
    scores = np.asarray(scores, dtype=np.float64)
    return scores.reshape(len(scores), -1), predicted


def _decision(estimator: Any, rows: Any) -> Any:
    """Scores of a classifier without probabilities; a binary one has a single column: two classes need two."""
    if not hasattr(estimator, "classes_") or not hasattr(estimator, "decision_function"):
        return None
    scores = np.asarray(estimator.decision_function(rows))
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def to_onnx(estimator: Any, columns: Sequence[ColumnKind] | None, name: str, *, decimals: bool) -> onnx.ModelProto:
    """ONNX by skl2onnx; each text column is an input of its own, with one output: scores or values.

    Raises:
        UnsupportedError: skl2onnx knows no converter for a part of the model.
        ConversionError: it failed.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    kinds = [FloatTensorType if c.categories is None else StringTensorType for c in columns or ()]
    if columns is not None and _takes_columns_apart(estimator):
        types = [(c.name, kind([None, 1])) for c, kind in zip(columns, kinds, strict=True)]
    elif len(set(kinds)) > 1:
        raise UnsupportedError(f"{type(estimator).__name__}: text and numbers in one matrix; use a ColumnTransformer")
    else:
        types = [(FEATURES, (kinds[0] if kinds else FloatTensorType)([None, estimator.n_features_in_]))]
    estimator = with_float32_thresholds(estimator, decimals=decimals)
    options = {id(estimator): {"zipmap": False}} if classes_of(estimator) is not None else None
    try:
        model: onnx.ModelProto = convert_sklearn(
            estimator, name, initial_types=types, options=options, target_opset=_OPSETS
        )
    except (MissingConverter, MissingShapeCalculator) as e:
        raise UnsupportedError(f"{type(estimator).__name__}: skl2onnx has no converter: {_line(e)}") from e
    except Exception as e:  # converters raise whatever they meet
        raise ConversionError(f"skl2onnx failed on {type(estimator).__name__}: {type(e).__name__}: {_line(e)}") from e
    _keep_one_output(model, classifier=classes_of(estimator) is not None)
    return model


def _takes_columns_apart(estimator: Any) -> bool:
    """Whether a ColumnTransformer stands where the table comes in."""
    if hasattr(estimator, "transformers_"):
        return True
    if hasattr(estimator, "steps"):
        real = [step for _, step in estimator.steps if not isinstance(step, str) and step is not None]
        return bool(real) and _takes_columns_apart(real[0])
    return any(_takes_columns_apart(part) for part in _parts(estimator))


def _keep_one_output(model: onnx.ModelProto, *, classifier: bool) -> None:
    """Scores for a classifier (labels follow from them), values for anything else, under a fixed name."""
    kept = model.graph.output[1 if classifier else 0]
    for entry in list(model.graph.output):
        if entry.name != kept.name:
            model.graph.output.remove(entry)
    wanted = SCORES if classifier else PREDICTION
    if kept.name != wanted:
        model.graph.node.append(onnx.helper.make_node("Identity", [kept.name], [wanted], name=wanted))
        kept.name = wanted
    drop_unused(model)


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[:300]

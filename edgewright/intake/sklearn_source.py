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
from edgewright.intake.fitted_forms import options_for, plain_attributes, with_convertible_parts
from edgewright.intake.onnx_nodes import drop_unused, rename_ends
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


def to_onnx(estimator: Any, columns: Sequence[ColumnKind] | None, name: str, *, decimals: bool) -> onnx.ModelProto:
    """ONNX by skl2onnx; each text column is an input of its own, with one output: scores or values.

    Raises:
        UnsupportedError: skl2onnx knows no converter for a part of the model.
        ConversionError: it failed.
    """
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    kinds = [FloatTensorType if c.categories is None else StringTensorType for c in columns or ()]
    if columns is not None and _takes_columns_apart(estimator):
        types = [(c.name, kind([None, 1])) for c, kind in zip(columns, kinds, strict=True)]
    elif len(set(kinds)) > 1:
        raise UnsupportedError(f"{type(estimator).__name__}: text and numbers in one matrix; use a ColumnTransformer")
    else:
        types = [(FEATURES, (kinds[0] if kinds else FloatTensorType)([None, estimator.n_features_in_]))]
    estimator = with_float32_thresholds(with_convertible_parts(estimator), decimals=decimals)
    try:
        model = _converted(estimator, name, types)
    except (MissingConverter, MissingShapeCalculator) as e:
        raise UnsupportedError(f"{type(estimator).__name__}: skl2onnx has no converter: {_line(e)}") from e
    except Exception as e:  # converters raise whatever they meet
        raise ConversionError(f"skl2onnx failed on {type(estimator).__name__}: {type(e).__name__}: {_line(e)}") from e
    classes = classes_of(estimator)
    if classes is not None and not hasattr(estimator, "predict_proba") and not hasattr(estimator, "decision_function"):
        _scores_of_labels(model, classes)
    _keep_one_output(model, classifier=classes is not None)
    if classes is not None and len(classes) == 2 and not hasattr(estimator, "predict_proba"):
        _two_columns(model, estimator.n_features_in_)
    if classes is not None:
        # skl2onnx declares one column for some binary classifiers that return two.
        shape = [None, len(classes)]
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(SCORES, onnx.TensorProto.FLOAT, shape))
    return model


def _scores_of_labels(model: onnx.ModelProto, classes: NDArray[Any]) -> None:
    """1 for the class that the model names and 0 for the others, in place of scores that it does not have."""
    if classes.dtype.kind not in "iu":
        raise UnsupportedError("a classifier that gives only labels needs classes that are whole numbers")
    make_node, label = onnx.helper.make_node, model.graph.output[0].name
    model.graph.initializer.extend(
        [
            onnx.helper.make_tensor("label_shape", onnx.TensorProto.INT64, [2], [-1, 1]),
            onnx.helper.make_tensor("label_classes", onnx.TensorProto.INT64, [1, len(classes)], classes.tolist()),
        ]
    )
    model.graph.node.extend(
        [
            make_node("Reshape", [label, "label_shape"], ["label_column"], name="label_column"),
            make_node("Equal", ["label_column", "label_classes"], ["label_hit"], name="label_hit"),
            make_node("Cast", ["label_hit"], ["label_scores"], name="label_scores", to=1),
        ]
    )
    scores = onnx.helper.make_tensor_value_info("label_scores", onnx.TensorProto.FLOAT, [None, len(classes)])
    model.graph.output[1].CopyFrom(scores)


def _two_columns(model: onnx.ModelProto, features: int) -> None:
    """A decision (N, 1) between two classes becomes scores (N, 2), as `answers` gives them."""
    import onnxruntime

    if len(model.graph.input) != 1 or model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    row = np.zeros((1, features), dtype=np.float32)
    if session.run(None, {model.graph.input[0].name: row})[0].size != 1:
        return
    shape = onnx.helper.make_tensor("column_shape", onnx.TensorProto.INT64, [2], [-1, 1])
    model.graph.initializer.append(shape)
    make_node = onnx.helper.make_node
    model.graph.node.extend(
        [
            make_node("Reshape", [SCORES, "column_shape"], ["decision"], name="decision"),
            make_node("Neg", ["decision"], ["against"], name="against"),
            make_node("Concat", ["against", "decision"], ["both"], name="both", axis=1),
        ]
    )
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("both", onnx.TensorProto.FLOAT, [None, 2]))
    rename_ends(model, {"both": SCORES, SCORES: "decision_of_model"})
    del model.graph.value_info[:]


def _converted(estimator: Any, name: str, types: Any) -> onnx.ModelProto:
    from skl2onnx import convert_sklearn

    refusal = NameError("no options to try")
    for options in options_for(estimator):
        try:
            with plain_attributes():
                model: onnx.ModelProto = convert_sklearn(
                    estimator, name, initial_types=types, options=options, target_opset=_OPSETS
                )
        except NameError as e:  # how skl2onnx refuses an option that a converter does not have
            refusal = e
        else:
            return model
    raise refusal


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
    wanted, tensor = SCORES if classifier else PREDICTION, kept.type.tensor_type
    if not classifier and (tensor.elem_type != onnx.TensorProto.FLOAT or len(tensor.shape.dim) != 2):
        # A cluster or an outlier's sign is a whole number (N,); every target takes a column of float32.
        shape = onnx.helper.make_tensor("column_shape", onnx.TensorProto.INT64, [2], [-1, 1])
        model.graph.initializer.append(shape)
        model.graph.node.append(onnx.helper.make_node("Cast", [kept.name], ["as_float"], name="as_float", to=1))
        model.graph.node.append(onnx.helper.make_node("Reshape", ["as_float", "column_shape"], [wanted], name=wanted))
        kept.CopyFrom(onnx.helper.make_tensor_value_info(wanted, onnx.TensorProto.FLOAT, [None, 1]))
    elif kept.name != wanted:
        rename_ends(model, {wanted: f"{wanted}_of_model"})
        model.graph.node.append(onnx.helper.make_node("Identity", [kept.name], [wanted], name=wanted))
        kept.name = wanted
    drop_unused(model)


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[:300]

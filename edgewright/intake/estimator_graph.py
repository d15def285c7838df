"""One fitted estimator, or a pipeline that ends in one, as an ONNX graph with a single output. By skl2onnx.

Models made of other models are put together in `composite_graph`. Runs in a child process.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.errors import ConversionError, UnsupportedError
from edgewright.intake.assembly import Assembly, columns_of_output
from edgewright.intake.column_places import as_unions
from edgewright.intake.exact_trees import Scaling, let_missing_values_follow, with_float32_thresholds
from edgewright.intake.fitted_forms import options_for, plain_attributes, with_convertible_parts
from edgewright.intake.onnx_nodes import drop_unused, rename_ends
from edgewright.intake.own_converters import register_own_converters

__all__ = [
    "PREDICTION",
    "SCORES",
    "classes_of",
    "estimator_graph",
    "keep_one_output",
    "transformer_graph",
    "with_decision",
]

_CLASS = re.compile(r"type '<class '[\w.]*?(\w+)'>'")
_ADVICE = re.compile(r"[Yy]ou (?:may|should) raise an issue")  # with skl2onnx: not on this user
_OPSETS = {"": 18, "ai.onnx.ml": 3}
SCORES, PREDICTION = "probabilities", "prediction"


def classes_of(estimator: Any) -> NDArray[Any] | None:
    """A classifier's classes in the order of its scores; None for other models."""
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return None
    if isinstance(classes, list):
        raise UnsupportedError(f"{type(estimator).__name__} predicts {len(classes)} targets at once; one is supported")
    return np.asarray(classes)


def estimator_graph(
    estimator: Any,
    types: Any,
    *,
    decimals: bool,
    decision: bool = False,
    scalings: Mapping[int, Scaling] | None = None,
    computed: Collection[int] = (),
) -> onnx.ModelProto:
    """Scores (N, classes) of a classifier, values (N, targets) of any other model.

    ``types``: the inputs, as skl2onnx wants them. ``decimals``, ``scalings``, ``computed``: see `exact_trees`.
    ``decision``: the scores of `decision_function`, (N, 1) where there are two classes.

    Raises:
        UnsupportedError: skl2onnx knows no converter for a part of the model.
        ConversionError: it failed.
    """
    exact = with_float32_thresholds(
        with_convertible_parts(estimator), decimals=decimals, scalings=scalings, computed=computed
    )
    model = _converted(exact, types, decision=decision)
    let_missing_values_follow(model, exact.steps[-1][1] if hasattr(exact, "steps") else exact)
    classes = classes_of(estimator)
    if classes is not None and not hasattr(estimator, "predict_proba") and not hasattr(estimator, "decision_function"):
        _scores_of_labels(model, classes)
    keep_one_output(model, classifier=classes is not None)
    if classes is None:
        return model
    if len(classes) == 2 and (decision or not hasattr(estimator, "predict_proba")):
        return with_decision(model, single=decision)
    # skl2onnx declares one column for some binary classifiers that return two.
    shape = [None, len(classes)]
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(SCORES, onnx.TensorProto.FLOAT, shape))
    return model


def transformer_graph(transformer: Any, types: Any) -> onnx.ModelProto:
    """What a fitted transformer makes of its input, (N, features) float32.

    Raises:
        UnsupportedError, ConversionError: as `estimator_graph`.
    """
    model = _converted(with_convertible_parts(transformer), types, decision=False)
    if len(model.graph.output) != 1:
        raise UnsupportedError(f"{type(transformer).__name__}: columns of different types where numbers are needed")
    return model


def _converted(estimator: Any, types: Any, *, decision: bool) -> onnx.ModelProto:
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    name = _name(estimator)
    try:
        return _by_skl2onnx(estimator, types, decision=decision)
    except UnsupportedError:
        raise
    except (MissingConverter, MissingShapeCalculator) as e:
        match = _CLASS.search(str(e))
        missing = match.group(1) if match else _line(e)
        raise UnsupportedError(f"{name}: {missing} has no path to ONNX; train with another kind in its place") from e
    except Exception as e:  # converters raise whatever they meet
        raise ConversionError(f"skl2onnx failed on {name}: {type(e).__name__}: {_line(e)}") from e


def _by_skl2onnx(estimator: Any, types: Any, *, decision: bool) -> onnx.ModelProto:
    from skl2onnx import convert_sklearn

    register_own_converters()
    estimator = as_unions(estimator)
    refusal = NameError("no options to try")
    for options in options_for(estimator, decision=decision):
        try:
            with plain_attributes():
                model: onnx.ModelProto = convert_sklearn(
                    estimator, "model", initial_types=types, options=options, target_opset=_OPSETS
                )
        except NameError as e:  # how skl2onnx refuses an option that a converter does not have
            refusal = e
        else:
            return model
    raise refusal


def _name(estimator: Any) -> str:
    """A pipeline by its steps, which say more."""
    parts = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    return ", ".join(type(part).__name__ for part in parts)


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


def with_decision(model: onnx.ModelProto, *, single: bool) -> onnx.ModelProto:
    """A decision between two classes: (N, 1) where ``single``, else (-d, d) as `sklearn_source.answers` gives it."""
    columns = columns_of_output(model)
    if columns == (1 if single else 2):
        shape = [None, columns]
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(SCORES, onnx.TensorProto.FLOAT, shape))
        return model
    assembly = Assembly(model.graph.input)
    scores = assembly.call("Reshape", assembly.part(model), assembly.constant([-1, columns], np.int64))
    if single:
        return assembly.finish(assembly.call("Gather", scores, assembly.constant([1], np.int64), axis=1), SCORES, 1)
    return assembly.finish(assembly.call("Concat", assembly.call("Neg", scores), scores, axis=1), SCORES, 2)


def keep_one_output(model: onnx.ModelProto, *, classifier: bool) -> None:
    """Scores for a classifier (labels follow from them), values for anything else, under a fixed name."""
    output = model.graph.output[1 if classifier else 0]
    for entry in list(model.graph.output):
        if entry.name != output.name:
            model.graph.output.remove(entry)
    wanted, tensor = SCORES if classifier else PREDICTION, output.type.tensor_type
    if not classifier and (tensor.elem_type != onnx.TensorProto.FLOAT or len(tensor.shape.dim) != 2):
        # A cluster or an outlier's sign is a whole number (N,); every target takes a column of float32.
        shape = onnx.helper.make_tensor("column_shape", onnx.TensorProto.INT64, [2], [-1, 1])
        model.graph.initializer.append(shape)
        model.graph.node.append(onnx.helper.make_node("Cast", [output.name], ["as_float"], name="as_float", to=1))
        model.graph.node.append(onnx.helper.make_node("Reshape", ["as_float", "column_shape"], [wanted], name=wanted))
        output.CopyFrom(onnx.helper.make_tensor_value_info(wanted, onnx.TensorProto.FLOAT, [None, 1]))
    elif output.name != wanted:
        # Something inside may have that name already.
        rename_ends(model, {wanted: f"{wanted}_of_model"})
        model.graph.node.append(onnx.helper.make_node("Identity", [output.name], [wanted], name=wanted))
        output.name = wanted
    drop_unused(model)


def _line(error: Exception) -> str:
    message = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return _ADVICE.split(message)[0].strip(" ,.;")[:300] or type(error).__name__

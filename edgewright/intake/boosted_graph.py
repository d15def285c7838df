"""Models of XGBoost and LightGBM as ONNX trees, by onnxmltools' converters, with thresholds that decide alike.

XGBoost compares float32 numbers with float32 thresholds (``x < t``), LightGBM float64 with float64 (``x <= t``), which
the converter rounds: so LightGBM's become the float32 below them first. Runs in a child process.
"""

import copy
from typing import Any

import numpy as np
import onnx

from edgewright.errors import ConversionError, UnsupportedError
from edgewright.intake.booster_forms import ended, finished_xgboost, plain_lightgbm, plain_xgboost
from edgewright.intake.category_splits import CategorySplit, lightgbm_without_sets
from edgewright.intake.estimator_graph import classes_of, keep_one_output
from edgewright.intake.exact_trees import Scaling, largest_passing, smallest_failing

__all__ = ["boosted_trees", "sparse_output"]

_OPSET = 15  # the newest that both converters of onnxmltools 1.16 write
_CATEGORICAL = 1  # the lowest bit of decision_type in LightGBM's model text


def boosted_trees(
    model: Any, scalings: dict[int, Scaling], *, decimals: bool, decision: bool = False
) -> tuple[onnx.ModelProto, list[CategorySplit]]:
    """The graph from ``features`` to scores or values; ``scalings`` are carried into the thresholds.

    Behind the model's own features it takes one for each returned split (see `category_splits.with_set_features`).
    ``decision``: the sums of the trees, not the probabilities that are made of them.

    Raises:
        ConversionError: onnxmltools failed on it.
        UnsupportedError: a booster that is not a tree model.
    """
    splits: list[CategorySplit] = []
    try:
        if type(model).__name__.startswith("XGB"):
            graph = _xgboost(model, scalings, decimals=decimals)
        else:
            graph, splits = _lightgbm(model, scalings, decimals=decimals)
    except UnsupportedError:
        raise
    except Exception as e:  # converters raise whatever they meet
        message = (str(e).strip() or type(e).__name__).splitlines()[0][:240]
        raise ConversionError(f"onnxmltools failed on {type(model).__name__}: {message}") from e
    if decision:
        for node in graph.graph.node:
            for attribute in node.attribute:
                if attribute.name == "post_transform":
                    attribute.s = b"NONE"
    keep_one_output(graph, classifier=classes_of(model) is not None)
    return graph, splits


def sparse_output(transformer: Any) -> bool:
    """Whether a fitted transformer hands on sparse rows."""
    return bool(getattr(transformer, "sparse_output_", getattr(transformer, "sparse_output", False)))


def _types(features: int) -> Any:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [("features", FloatTensorType([None, features]))]


def _xgboost(model: Any, scalings: dict[int, Scaling], *, decimals: bool) -> onnx.ModelProto:
    from onnxmltools.convert import convert_xgboost

    plain = plain_xgboost(model)
    graph: onnx.ModelProto = convert_xgboost(plain, initial_types=_types(model.n_features_in_), target_opset=_OPSET)
    for node in graph.graph.node:
        if node.op_type.startswith("TreeEnsemble"):
            _carry_into(node, scalings, decimals=decimals)
    return finished_xgboost(graph, model)


def _carry_into(node: onnx.NodeProto, scalings: dict[int, Scaling], *, decimals: bool) -> None:
    """Replace thresholds on scaled columns by those that decide alike before scaling."""
    given = {a.name: a for a in node.attribute}
    features = np.array(given["nodes_featureids"].ints)
    values = np.array(given["nodes_values"].floats, dtype=np.float32)
    modes = np.array([mode.decode() for mode in given["nodes_modes"].strings])
    if set(modes) - {"LEAF", "BRANCH_LT"}:
        raise UnsupportedError(f"XGBoost trees that compare by {', '.join(sorted(set(modes) - {'LEAF'}))}")
    for feature, scaling in scalings.items():
        chosen = (features == feature) & (modes != "LEAF")
        values[chosen] = smallest_failing(values[chosen], scaling, decimals=decimals)
    del given["nodes_values"].floats[:]
    given["nodes_values"].floats.extend(values.tolist())


def _lightgbm(
    model: Any, scalings: dict[int, Scaling], *, decimals: bool
) -> tuple[onnx.ModelProto, list[CategorySplit]]:
    import lightgbm
    from onnxmltools.convert import convert_lightgbm

    exact = copy.copy(model)
    # Stopped early, it answers by its best iteration only; the text holds no others.
    lines = model.booster_.model_to_string(num_iteration=model.booster_.best_iteration).split("\n")
    if any(_takes_zero_as_missing(line) for line in lines):
        raise UnsupportedError(
            f"{type(model).__name__} with zero_as_missing: the trees of other runtimes know no such zero; train it with"
            " blanks (NaN) where a value is missing"
        )
    lines, ending = plain_lightgbm(lines, type(model).__name__)
    lines, splits = lightgbm_without_sets(lines, model.n_features_in_)
    if any(split.feature in scalings for split in splits):
        raise UnsupportedError(
            f"{type(model).__name__}: a categorical feature that is scaled before; leave it as it is"
        )
    text = "\n".join(_with_exact_thresholds(lines, scalings, decimals=decimals))
    if classes_of(model) is not None:
        exact._classes = np.arange(len(model.classes_))  # labels are not asked for, and the converter knows no boolean
    exact._Booster = lightgbm.Booster(model_str=text)
    if type(model).__name__ == "LGBMRanker":
        exact.__class__ = lightgbm.LGBMRegressor  # its scores are values
    exact.boosting_type = "gbdt"  # whatever else it was trained by, its trees are summed
    types = _types(model.n_features_in_ + len(splits))
    graph = convert_lightgbm(exact, initial_types=types, target_opset=_OPSET, zipmap=False)
    return ended(graph, ending), splits


def _takes_zero_as_missing(line: str) -> bool:
    """Whether a tree's line of decision types holds that of zeros: bits 2 and 3 are 0 (none), 1 (zero) or 2 (NaN)."""
    key, _, value = line.partition("=")
    return key == "decision_type" and any((int(kind) >> 2) & 3 == 1 for kind in value.split())


def _with_exact_thresholds(lines: list[str], scalings: dict[int, Scaling], *, decimals: bool) -> list[str]:
    """LightGBM's model text with new numbers in each tree's threshold line (its fields precede it in the tree)."""
    changed, fields = list[str](), dict[str, list[str]]()
    for line in lines:
        key, _, value = line.partition("=")
        fields[key] = value.split()
        if key == "tree_sizes":
            continue  # offsets into the old text; without them the text is read line by line
        if key == "threshold":
            features = np.array(fields["split_feature"], dtype=np.int64)
            thresholds = np.array(fields["threshold"], dtype=np.float64)
            at = len(changed)
        if key == "decision_type" and value:
            numeric = (np.array(fields["decision_type"], dtype=np.int64) & _CATEGORICAL) == 0
            for feature in np.unique(features[numeric]):
                chosen = numeric & (features == feature)
                scaling = scalings.get(int(feature), lambda x: x)
                thresholds[chosen] = largest_passing(thresholds[chosen], scaling, decimals=decimals, rounded=False)
            changed[at] = "threshold=" + " ".join(repr(float(t)) for t in thresholds)
        changed.append(line)
    return changed

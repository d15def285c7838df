"""XGBoost's document of a model (UBJSON), looked at before the library reads it.

A pickled booster holds ``{"Config", "Model"}``, or the model alone. The library compares few of its counts with what
is there: it walks the trees that it is given, and takes as many threads and as much memory as the counts say.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgewright.intake.ubjson import read_ubjson
from edgewright.intake.xgboost_fields import DamagedModelError, count, field, integers, length, texts
from edgewright.intake.xgboost_forest import inspect_forest

__all__ = ["inspect_xgboost"]

_MAX_FEATURES = 1 << 24
_MAX_OUTPUTS = 1 << 16
_MAX_THREADS = 1 << 10  # more than machines have; whether a library keeps to its cores is left to its version
_INT32 = 2**31 - 1
_FLOAT = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|nan|NaN|inf|Infinity)"
_SCORES = re.compile(rf"{_FLOAT}|\[(?:{_FLOAT}(?:,{_FLOAT})*)?\]")
_COUNTS = ("num_class", "num_feature", "num_target")


def inspect_xgboost(handle: bytearray) -> None:
    """Look at the document in a booster's handle.

    Raises:
        ValueError: not such UBJSON.
        DamagedModelError: counts, nodes, features or categories that are not there.
    """
    if handle.startswith(b'{"'):
        raise DamagedModelError("it is JSON, which XGBoost 3 takes in no pickle; save it anew by the one that wrote it")
    document = read_ubjson(handle)
    if not isinstance(document, dict):
        raise DamagedModelError("its document is not an object")
    if document.get("Model") is None:  # older libraries read such a one as the model
        _inspect_model(document)
        return
    model = field(document, "Model", dict)
    _inspect_model(model)
    _inspect_config(field(document, "Config", dict), field(model, "learner", dict))


def _inspect_model(model: Mapping[str, Any]) -> None:
    _inspect_version(model)
    learner = field(model, "learner", dict)
    param = field(learner, "learner_model_param", dict)
    features = count(param, "num_feature", 0, _MAX_FEATURES)
    groups = max(count(param, "num_class", 0, _MAX_OUTPUTS), count(param, "num_target", 1, _MAX_OUTPUTS, default=1))
    _inspect_scores(field(param, "base_score", str), groups)
    for name in ("feature_names", "feature_types"):
        if len(texts(learner, name)) not in {0, features}:
            raise DamagedModelError(f"'{name}' does not fit the {features} features")
    if not all(isinstance(value, str) for value in field(learner, "attributes", dict).values()):
        raise DamagedModelError("'attributes' that are not texts")
    _inspect_objective(field(learner, "objective", dict), param)
    _inspect_booster(field(learner, "gradient_booster", dict), features, groups)


def _inspect_version(document: Mapping[str, Any]) -> None:
    version = field(document, "version", list)
    if len(version) != 3 or any(type(number) is not int for number in version):
        raise DamagedModelError("'version' is not three whole numbers")


def _inspect_scores(text: str, groups: int) -> None:
    """One for all outputs, or one for each."""
    if not _SCORES.fullmatch(text) or text.count(",") + 1 not in {1, groups}:
        raise DamagedModelError(f"'base_score' is {text[:40]!r}, not a number for each of {groups} outputs")


def _inspect_objective(objective: Mapping[str, Any], param: Mapping[str, Any]) -> None:
    field(objective, "name", str)
    softmax = objective.get("softmax_multiclass_param")
    if softmax is not None and (
        not isinstance(softmax, dict)
        or count(softmax, "num_class", 0, _MAX_OUTPUTS) != count(param, "num_class", 0, _MAX_OUTPUTS)
    ):
        raise DamagedModelError("an objective of another number of classes")


def _inspect_booster(booster: Mapping[str, Any], features: int, groups: int) -> None:
    match field(booster, "name", str):
        case "gbtree":
            _inspect_trees(field(booster, "model", dict), features, groups)
        case "dart":
            inner = field(booster, "gbtree", dict)
            if field(inner, "name", str) != "gbtree":
                raise DamagedModelError("a dart booster over no trees")
            trees = _inspect_trees(field(inner, "model", dict), features, groups)
            if length(booster, "weight_drop") != trees:
                raise DamagedModelError(f"'weight_drop' does not fit {trees} trees")
        case "gblinear":
            model = field(booster, "model", dict)
            rounds, weights = count(model, "boosted_rounds", 0, _INT32, default=0), length(model, "weights")
            asked = (features + 1) * groups
            # Before the first round there are none; the library makes them when it first predicts.
            if weights != asked and (weights or rounds or asked > _MAX_FEATURES):
                raise DamagedModelError(f"'weights' does not fit {features} features and {groups} outputs")
        case name:
            raise DamagedModelError(f"a booster {name[:40]!r}; known are gbtree, dart and gblinear")


def _inspect_trees(model: Mapping[str, Any], features: int, groups: int) -> int:
    """How many there are."""
    trees, param = field(model, "trees", list), field(model, "gbtree_model_param", dict)
    count(param, "num_trees", len(trees), len(trees))
    parallel = count(param, "num_parallel_tree", 1, max(len(trees), 1 << 16), default=1)
    inspect_forest(trees, features, groups)
    if trees and sorted(count(tree, "id", 0, len(trees) - 1) for tree in trees) != [*range(len(trees))]:
        raise DamagedModelError("trees whose ids are not their places")
    (outputs, _), is_vector = integers([model], "tree_info"), _is_vector(trees)
    if len(outputs) != len(trees) or ((outputs < 0) | (outputs >= groups)).any():
        raise DamagedModelError(f"'tree_info' does not name one of {groups} outputs for each of {len(trees)} trees")
    if not is_vector and len(trees) % groups:
        raise DamagedModelError(f"{len(trees)} trees for {groups} outputs")
    if "iteration_indptr" in model:
        bounds, _ = integers([model], "iteration_indptr")
        if not len(bounds) or bounds[0] != 0 or bounds[-1] != len(trees) or (np.diff(bounds) < 0).any():
            raise DamagedModelError(f"'iteration_indptr' does not lead from 0 to {len(trees)} trees")
    elif len(trees) % (parallel * (1 if is_vector else groups)):  # before XGBoost 2: the library divides
        raise DamagedModelError(f"{len(trees)} trees in rounds of {parallel} for {groups} outputs")
    _inspect_categories(model.get("cats", {}), features)
    return len(trees)


def _is_vector(trees: list[Any]) -> bool:
    return bool(trees) and count(trees[0]["tree_param"], "size_leaf_vector", 0, _MAX_OUTPUTS, default=0) > 1


def _inspect_categories(cats: Any, features: int) -> None:
    """The values of categorical columns, by which the library numbers those of new data."""
    if not isinstance(cats, dict) or not cats:
        if cats != {}:
            raise DamagedModelError("'cats' is not an object")
        return
    columns = field(cats, "enc", list)
    if not all(isinstance(column, dict) for column in columns):
        raise DamagedModelError("a column of 'cats' that is not an object")
    sizes = np.array([_categories_of(column) for column in columns], np.int64)
    bounds, order = integers([cats], "feature_segments")[0], integers([cats], "sorted_idx")[0]
    if not columns and not len(bounds) and not len(order):
        return
    if len(columns) != features or not np.array_equal(bounds, np.concatenate([[0], np.cumsum(sizes)])):
        raise DamagedModelError("'feature_segments' does not fit the columns of 'cats'")
    if not len(order):  # not sorted yet
        return
    starts, column_of = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    if len(order) != len(column_of) or not np.array_equal(
        order[np.lexsort((order, column_of))], np.arange(len(order)) - starts[column_of]
    ):
        raise DamagedModelError("'sorted_idx' does not order the columns of 'cats'")


def _categories_of(column: Mapping[str, Any]) -> int:
    """How many values a column has; texts lie end to end, and ``offsets`` says where each begins."""
    size = length(column, "values")
    if "offsets" not in column:
        count(column, "type", 0, _INT32)
        return size
    offsets, _ = integers([column], "offsets")
    if not len(offsets):
        return 0
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] > size:
        raise DamagedModelError("'offsets' of a column of 'cats' lead beyond its texts")
    return len(offsets) - 1


def _inspect_config(config: Mapping[str, Any], learner: Mapping[str, Any]) -> None:
    """Where the settings say again what the model says, the library takes one or the other."""
    _inspect_version(config)
    settings = field(config, "learner", dict)
    booster, objective = field(learner, "gradient_booster", dict), field(learner, "objective", dict)
    param, train = field(learner, "learner_model_param", dict), field(settings, "learner_train_param", dict)
    pairs = [
        (train.get("booster"), booster["name"]),
        (field(settings, "gradient_booster", dict).get("name"), booster["name"]),
        (train.get("objective"), objective["name"]),
        (field(settings, "objective", dict).get("name"), objective["name"]),
    ]
    _inspect_objective(settings["objective"], param)
    again = settings.get("learner_model_param", {})
    pairs += [(again.get(name), param.get(name)) for name in _COUNTS if name in again]
    if any(twice != once for twice, once in pairs):
        raise DamagedModelError("its Config is of another model")
    generic = field(settings, "generic_param", dict)
    for name in ("nthread", "n_jobs"):
        count(generic, name, -_INT32, _MAX_THREADS, default=0)

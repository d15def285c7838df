"""Tree thresholds that decide in float32 as scikit-learn decides in float64.

scikit-learn scales a column in float64, rounds it to float32 and compares it with a float64 threshold. A device has
float32 only, and its scaler rounds differently, so a row near a threshold could fall on the other side. Scaling is
monotone, so each threshold is carried back through the scaler: it becomes the largest float32 whose scaled value
still passes, and the scaler is taken out. Then ``x <= t`` decides alike for every float32 ``x``.

A table holds decimals: 99.1 reaches scikit-learn as the float64 nearest to it, the device as the float32 nearest to
it, which are different numbers. There a float32 stands for the shortest decimal that it is nearest to, so that a
threshold halfway between two training values decides a customer's 99.1 as scikit-learn does.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.intake.column_places import places_kept

__all__ = [
    "Scaling",
    "largest_passing",
    "let_missing_values_follow",
    "smallest_failing",
    "with_float32_thresholds",
    "without_scaler",
]

_OF_TREES = tuple(f"sklearn.ensemble.{m}" for m in ("_gb", "_forest", "_iforest", "_bagging", "_weight_boosting"))

Scaling = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def with_float32_thresholds(estimator: Any, *, decimals: bool, scalings: Mapping[int, Scaling] | None = None) -> Any:
    """A copy whose trees compare with float32 thresholds; anything that is not a tree model is returned as it is.

    ``decimals``: the raw values are decimals of a table, not float32 numbers. ``scalings``: what scalers that were
    taken out (`without_scaler`) did to the features; by default those of the step right before the trees.
    """
    final = _final(estimator)
    if not any(True for _ in _trees_of(final)) and not any(map(len, _histogram_trees_of(final))):
        return estimator
    # Thresholds are written in place, and the original stays the reference.
    changed = copy.deepcopy(estimator)
    final = _final(changed)
    if scalings is None:
        scalings = _taken_out(changed) if final is not changed else {}
    for nodes in _histogram_trees_of(final):
        _replace_histogram_thresholds(nodes, scalings, decimals=decimals)
    for tree, features in _trees_of(final):
        # Bagging trains each tree on some of the features and numbers them anew.
        own = scalings if features is None else {i: scalings[int(f)] for i, f in enumerate(features) if f in scalings}
        _replace_thresholds(tree, own, decimals=decimals)
    return changed


def let_missing_values_follow(model: onnx.ModelProto, estimator: Any) -> None:
    """Missing values take the side that training chose for them; skl2onnx 1.20 sends them all to the right."""
    trees = [tree for tree, _ in _trees_of(estimator)]
    if not any(tree.missing_go_to_left.any() for tree in trees):
        return
    for node in model.graph.node:
        given = {a.name: a for a in node.attribute}
        # One node holds the whole ensemble, its trees in the order that scikit-learn has them in.
        if node.op_type.startswith("TreeEnsemble") and len(set(given["nodes_treeids"].ints)) == len(trees):
            places = zip(given["nodes_treeids"].ints, given["nodes_nodeids"].ints, strict=True)
            left = [int(trees[tree].missing_go_to_left[own]) for tree, own in places]
            # An attribute may stand only once.
            if "nodes_missing_value_tracks_true" in given:
                node.attribute.remove(given["nodes_missing_value_tracks_true"])
            node.attribute.append(onnx.helper.make_attribute("nodes_missing_value_tracks_true", left))


def without_scaler(transformers: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[int, Scaling]]:
    """A copy of fitted transformers whose last scalers do nothing, and what those did to each column of the result."""
    changed = copy.deepcopy(transformers)
    return changed, _taken_out_of(changed)


def _final(estimator: Any) -> Any:
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _trees_of(model: Any) -> Iterator[tuple[Any, Any]]:
    """The fitted `sklearn.tree._tree.Tree` objects of a tree or an ensemble of trees.

    With each the model's features that the tree's own stand for, None where it has them all.
    """
    if hasattr(model, "tree_"):
        yield model.tree_, None
        return
    if not type(model).__module__.startswith(_OF_TREES):
        return
    parts = np.asarray(model.estimators_, dtype=object).ravel()
    chosen = getattr(model, "estimators_features_", [None] * len(parts))
    for part, features in zip(parts, chosen, strict=True):
        if hasattr(part, "tree_"):
            yield part.tree_, features


def _histogram_trees_of(model: Any) -> Iterator[Any]:
    """The node tables of histogram gradient boosting, which compares in float64 without rounding first."""
    for group in getattr(model, "_predictors", []):
        for predictor in group:
            yield predictor.nodes


def _replace_histogram_thresholds(nodes: Any, scalings: Mapping[int, Scaling], *, decimals: bool) -> None:
    branches = np.flatnonzero((nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0))
    for feature in np.unique(nodes["feature_idx"][branches]):
        chosen = branches[nodes["feature_idx"][branches] == feature]
        scaling = scalings.get(int(feature), lambda x: x)
        thresholds = nodes["num_threshold"][chosen]
        nodes["num_threshold"][chosen] = largest_passing(thresholds, scaling, decimals=decimals, rounded=False)


def _taken_out(pipeline: Any) -> dict[int, Scaling]:
    """Make the scalers right before the trees do nothing; returns what they did, by the trees' feature number."""
    return _taken_out_of([step for _, step in pipeline.steps[:-1]])


def _taken_out_of(steps: Sequence[Any]) -> dict[int, Scaling]:
    if not steps:
        return {}
    last = steps[-1]
    if (places := places_kept(last)) is not None:
        # A step that picks columns lets the scaler before it through, under new places.
        earlier_scalings = _taken_out_of(steps[:-1])
        return {feature: earlier_scalings[place] for feature, place in enumerate(places) if place in earlier_scalings}
    if not hasattr(last, "transformers_"):
        return _scalings(last, range(getattr(last, "n_features_in_", 0)))
    scalings: dict[int, Scaling] = {}
    for name, part, _ in last.transformers_:
        where = last.output_indices_[name]
        end = part.steps[-1][1] if hasattr(part, "steps") else part
        scalings.update(_scalings(end, range(where.start, where.stop)))
    return scalings


def _scalings(step: Any, features: range) -> dict[int, Scaling]:
    """What a scaler does to each of its columns, in its own order of operations; the scaler becomes an identity."""
    match type(step).__name__:
        case "StandardScaler":
            mean = step.mean_ if step.with_mean else None
            scale = step.scale_ if step.with_std else None
            scalings = {f: _shift_then_divide(_at(mean, i), _at(scale, i)) for i, f in enumerate(features)}
            step.mean_, step.scale_ = np.zeros(len(features)), np.ones(len(features))
        case "RobustScaler":
            centre = step.center_ if step.with_centering else None
            scale = step.scale_ if step.with_scaling else None
            scalings = {f: _shift_then_divide(_at(centre, i), _at(scale, i)) for i, f in enumerate(features)}
            step.center_, step.scale_ = np.zeros(len(features)), np.ones(len(features))
        case "MaxAbsScaler":
            scalings = {f: _shift_then_divide(None, step.scale_[i]) for i, f in enumerate(features)}
            step.scale_ = np.ones(len(features))
        case "MinMaxScaler" if not step.clip:
            scalings = {f: _multiply_then_shift(step.scale_[i], step.min_[i]) for i, f in enumerate(features)}
            step.scale_, step.min_ = np.ones(len(features)), np.zeros(len(features))
        case _:
            return {}
    return scalings


def _at(values: Any, index: int) -> float | None:
    return None if values is None else float(values[index])


def _shift_then_divide(shift: float | None, scale: float | None) -> Scaling:
    def scaling(x: NDArray[np.float64]) -> NDArray[np.float64]:
        x = x if shift is None else x - shift
        return x if scale is None else x / scale

    return scaling


def _multiply_then_shift(scale: float, shift: float) -> Scaling:
    return lambda x: x * scale + shift


def _replace_thresholds(tree: Any, scalings: Mapping[int, Scaling], *, decimals: bool) -> None:
    branches = np.flatnonzero(tree.children_left != tree.children_right)
    for feature in np.unique(tree.feature[branches]):
        nodes = branches[tree.feature[branches] == feature]
        scaling = scalings.get(int(feature), lambda x: x)
        tree.threshold[nodes] = largest_passing(tree.threshold[nodes], scaling, decimals=decimals)


def largest_passing(
    thresholds: NDArray[np.float64], scaling: Scaling, *, decimals: bool = False, rounded: bool = True
) -> NDArray[np.float32]:
    """For each threshold the largest finite float32 ``x`` with ``float32(scaling(x)) <= threshold``.

    ``rounded`` False leaves the float32 out of that comparison.

    Found by bisection over the order of the float32 numbers themselves (32 steps), so no rounding is guessed.
    """
    return _number(_last_passing(thresholds, scaling, np.less_equal, decimals=decimals, rounded=rounded))


def smallest_failing(
    thresholds: NDArray[np.float32], scaling: Scaling, *, decimals: bool = False
) -> NDArray[np.float32]:
    """For each threshold the smallest float32 ``x`` with ``float32(scaling(x)) >= threshold``, for ``x < t`` alike."""
    passing = _last_passing(thresholds, scaling, np.less, decimals=decimals, rounded=True)
    # With `<`, the first to fail is the float32 next to the last that passes; none is next to the largest.
    return _number(np.minimum(passing + 1, _rank(np.finfo(np.float32).max)))


def _last_passing(
    thresholds: NDArray[Any], scaling: Scaling, compare: Any, *, decimals: bool, rounded: bool
) -> NDArray[np.int64]:
    limit = np.finfo(np.float32).max
    low = np.full(len(thresholds), _rank(np.float32(-limit)), dtype=np.int64)
    high = np.full(len(thresholds), _rank(np.float32(limit)), dtype=np.int64)
    # `low` passes, or is the least float32; whatever is above `high` fails.
    while (low < high).any():
        # Rounded up, or two neighbours would never meet.
        middle = low + (high - low + 1) // 2
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which does not pass: as in scikit-learn
            numbers = _number(middle)
            # numpy writes a float32 as its shortest decimal, which is what a table would hold.
            raw = (numbers.astype(np.str_) if decimals else numbers).astype(np.float64)
            scaled = scaling(raw).astype(np.float32) if rounded else scaling(raw)
        passes = compare(scaled.astype(np.float64), thresholds)
        low, high = np.where(passes, middle, low), np.where(passes, high, middle - 1)
    return low


def _rank(number: np.float32) -> int:
    """The place of a float32 in the order of all of them."""
    # The bits of a float32 are a sign and a magnitude, and magnitudes read as integers keep the order.
    bits = int(np.float32(number).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(rank: NDArray[np.int64]) -> NDArray[np.float32]:
    magnitude = np.abs(rank).astype(np.int32).view(np.float32)
    return np.where(rank < 0, -magnitude, magnitude).astype(np.float32)

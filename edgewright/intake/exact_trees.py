"""Tree thresholds that decide in float32 as scikit-learn decides in float64.

scikit-learn scales a column in float64, rounds it to float32 and compares it with a float64 threshold. A device has
float32 only, and its scaler rounds differently, so a row near a threshold could fall on the other side. Scaling is
monotone, so each threshold is carried back through the scaler: it becomes the largest float32 whose scaled value
still passes, and the scaler is taken out. Then ``x <= t`` decides alike for every float32 ``x``.

A table holds decimals: 99.1 reaches scikit-learn as the float64 nearest to it, the device as the float32 nearest to
it, which are different numbers. There a float32 stands for the shortest decimal that it is nearest to, so that a
threshold halfway between two training values decides a customer's 99.1 as scikit-learn does.

Measured numbers (0.8414709848078965) have more digits than a float32 tells apart. Histogram gradient boosting takes
such a number itself as a threshold, where a column has more values than bins; the float32 nearest to it then stands
for it, and passes as it does. Where the number was computed (a principal component), a device's differs in its last
digits, and the threshold moves up by more than these.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.intake.column_places import places_kept

__all__ = [
    "Scaling",
    "computed_features",
    "largest_passing",
    "let_missing_values_follow",
    "smallest_failing",
    "with_float32_thresholds",
    "without_scaler",
]

_OF_TREES = tuple(f"sklearn.ensemble.{m}" for m in ("_gb", "_forest", "_iforest", "_bagging", "_weight_boosting"))

# What a few float64 operations add to a decimal, by its size.
_NOISE = 1e-13
# What a chain of float32 operations differs by, by the size of the column: some 16 units in the last place.
_ROUNDING = 2e-6
_HANDING_ON = {"SimpleImputer", "OneHotEncoder", "OrdinalEncoder", "Binarizer"}

Scaling = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def with_float32_thresholds(
    estimator: Any,
    *,
    decimals: bool,
    scalings: Mapping[int, Scaling] | None = None,
    computed: Collection[int] = (),
) -> Any:
    """A copy whose trees compare with float32 thresholds; anything that is not a tree model is returned as it is.

    ``decimals``: the raw values are decimals of a table, not float32 numbers. ``scalings``: what scalers that were
    taken out (`without_scaler`) did to the features; by default those of the step right before the trees. ``computed``:
    features that steps outside of the estimator computed; its own steps are looked at in any case.
    """
    final = _final(estimator)
    if not any(True for _ in _trees_of(final)) and not any(map(len, _histogram_trees_of(final))):
        return estimator
    # Thresholds are written in place, and the original stays the reference.
    changed = copy.deepcopy(estimator)
    final = _final(changed)
    if scalings is None:
        scalings = _taken_out(changed) if final is not changed else {}
    own_steps = [step for _, step in changed.steps[:-1]] if final is not changed else []
    computed = {*computed, *computed_features(own_steps, getattr(final, "n_features_in_", 0))} - scalings.keys()
    for nodes in _histogram_trees_of(final):
        _replace_histogram_thresholds(nodes, scalings, computed, decimals=decimals)
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
            goes_left = [int(trees[tree].missing_go_to_left[own]) for tree, own in places]
            # An attribute may stand only once.
            if "nodes_missing_value_tracks_true" in given:
                node.attribute.remove(given["nodes_missing_value_tracks_true"])
            node.attribute.append(onnx.helper.make_attribute("nodes_missing_value_tracks_true", goes_left))


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


def _replace_histogram_thresholds(
    nodes: Any, scalings: Mapping[int, Scaling], computed: Collection[int], *, decimals: bool
) -> None:
    branches = np.flatnonzero((nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0))
    for feature in np.unique(nodes["feature_idx"][branches]):
        chosen = branches[nodes["feature_idx"][branches] == feature]
        scaling = scalings.get(int(feature), lambda x: x)
        thresholds = nodes["num_threshold"][chosen]
        if feature in computed:
            # A row that training saw lies on its threshold; it stays below, however the device rounds.
            nodes["num_threshold"][chosen] = thresholds + _ROUNDING * np.abs(thresholds[np.isfinite(thresholds)]).max()
        elif decimals and _have_many_digits(thresholds, scaling):
            nodes["num_threshold"][chosen] = _nearest_to(thresholds, scaling)
        else:
            nodes["num_threshold"][chosen] = largest_passing(thresholds, scaling, decimals=decimals, rounded=False)


def computed_features(steps: Sequence[Any], width: int) -> set[int]:
    """Of the ``width`` features that fitted steps hand on, those that a step computed.

    A scaler computes here; one that is taken out does not (`without_scaler`).
    """
    if not steps:
        return set()
    *earlier, last = steps
    if (places := places_kept(last)) is not None:
        before = computed_features(earlier, max(places, default=0) + 1)
        return {feature for feature, place in enumerate(places) if place in before}
    # Steps of our own answer as many columns as they take.
    before = computed_features(earlier, getattr(last, "n_features_in_", width))
    if not hasattr(last, "transformers_"):
        return before if _hands_on(last) else set(range(width))
    computed = set[int]()
    for name, part, _ in last.transformers_:
        where = last.output_indices_[name]
        # Which column became which feature is not followed behind other steps.
        if before or not _hands_on(part):
            computed.update(range(where.start, where.stop))
    return computed


def _hands_on(part: Any) -> bool:
    """Whether a step answers its inputs, their codes or constants, which a float32 holds as a float64 does."""
    if isinstance(part, str):
        return True
    if hasattr(part, "steps"):
        return all(_hands_on(step) for _, step in part.steps)
    if type(part).__name__ == "FunctionTransformer":
        return part.func is None
    return type(part).__name__ in _HANDING_ON or hasattr(part, "get_support")


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
    raw = _shortest_decimals if decimals else _as_they_are
    return _number(_last_passing(thresholds, scaling, np.less_equal, raw, rounded=rounded))


def smallest_failing(
    thresholds: NDArray[np.float32], scaling: Scaling, *, decimals: bool = False
) -> NDArray[np.float32]:
    """For each threshold the smallest float32 ``x`` with ``float32(scaling(x)) >= threshold``, for ``x < t`` alike."""
    raw = _shortest_decimals if decimals else _as_they_are
    passing = _last_passing(thresholds, scaling, np.less, raw, rounded=True)
    # With `<`, the first to fail is the float32 next to the last that passes; none is next to the largest.
    return _number(np.minimum(passing + 1, _rank(np.finfo(np.float32).max)))


def _nearest_to(thresholds: NDArray[np.float64], scaling: Scaling) -> NDArray[np.float32]:
    """For each threshold the float32 nearest to the largest number that passes it."""
    return _number(_last_passing(thresholds, scaling, np.less_equal, _least_that_round, rounded=False))


def _have_many_digits(thresholds: NDArray[np.float64], scaling: Scaling) -> bool:
    """Whether most thresholds of a column, before scaling, lie off the decimals of ten digits.

    Ten are what halfway between two decimals of nine needs, and nine tell any two float32 numbers apart.
    """
    near = _nearest_to(thresholds, scaling)
    low, high = _least_that_round(near), _least_that_round(np.nextafter(near, np.float32(np.inf)))
    with np.errstate(divide="ignore", invalid="ignore"):  # at the ends of float32, where no decimal is
        # Scalers are straight lines, so that the number sought divides its interval as its image does.
        share = (thresholds - scaling(low)) / (scaling(high) - scaling(low))
        numbers = low + share * (high - low)
    rounded = np.array([float(f"{number:.10g}") for number in numbers])
    return bool(np.mean(np.abs(numbers - rounded) > _NOISE * np.abs(numbers)) > 0.5)


def _as_they_are(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    return numbers.astype(np.float64)


def _shortest_decimals(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    # numpy writes a float32 as its shortest decimal, which is what a table would hold.
    return numbers.astype(np.str_).astype(np.float64)


def _least_that_round(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    """The lower ends of what rounds to each number: halfway to the one below."""
    below = np.nextafter(numbers, np.float32(-np.inf))
    return (below.astype(np.float64) + numbers.astype(np.float64)) / 2


def _last_passing(
    thresholds: NDArray[Any],
    scaling: Scaling,
    compare: Any,
    raw: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    *,
    rounded: bool,
) -> NDArray[np.int64]:
    """The ranks of the last float32 numbers that pass; ``raw``: what a table holds where a device has the float32."""
    limit = np.finfo(np.float32).max
    low = np.full(len(thresholds), _rank(np.float32(-limit)), dtype=np.int64)
    high = np.full(len(thresholds), _rank(np.float32(limit)), dtype=np.int64)
    # `low` passes, or is the least float32; whatever is above `high` fails.
    while (low < high).any():
        # Rounded up, or two neighbours would never meet.
        middle = low + (high - low + 1) // 2
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which does not pass: as in scikit-learn
            scaled = scaling(raw(_number(middle)))
            scaled = scaled.astype(np.float32) if rounded else scaled
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

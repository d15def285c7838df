"""Trees that split on sets of categories, as trees that compare numbers: each set becomes a feature, 0 inside it.

HistGradientBoosting's nodes hold a set of codes that go left, and LightGBM's; ONNX has no such comparison that every
target knows. One table a column, computed from the code, says of every set whether the cell is in it; the node then
compares that feature with one half. Runs in a child process: imports scikit-learn when it runs.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright.intake.assembly import Assembly

__all__ = [
    "CategorySplit",
    "histogram_without_sets",
    "lightgbm_without_sets",
    "opened_up",
    "wants_categories",
    "with_set_features",
]

# Both libraries keep a set in words of 32 bits: bit b of word w stands for the code 32 w + b.
_BITS = 32
_CATEGORICAL = 1  # the lowest bit of decision_type in LightGBM's model text


@dataclass(frozen=True)
class CategorySplit:
    """A set of codes of one feature: those that go left, those that go right, and where anything else goes."""

    feature: int
    left: frozenset[int]
    right: frozenset[int]
    others_left: bool


def opened_up(model: Any) -> list[Any]:
    """A model that encodes its own table, as the steps that it takes: the encoders, and trees over their codes.

    Raises:
        UnsupportedError: XGBoost over categorical columns, for whose splits there is no converter.
    """
    if type(model).__name__.startswith("XGB") and "c" in (model.get_booster().feature_types or ()):
        raise UnsupportedError(
            f"{type(model).__name__} over categorical columns (enable_categorical); encode them before it, by "
            "OneHotEncoder or OrdinalEncoder in a ColumnTransformer"
        )
    # Histogram boosting over categories holds the ColumnTransformer that makes its codes.
    if getattr(model, "_preprocessor", None) is not None and hasattr(model, "_predictors"):
        bare = copy.copy(model)
        bare._preprocessor = None
        return [_by_number(model._preprocessor), bare]
    if type(model).__name__.startswith("LGBM") and getattr(model.booster_, "pandas_categorical", None):
        # Deep: a shallow copy would share the booster, and the original would lose its categories.
        bare = copy.deepcopy(model)
        bare.booster_.pandas_categorical = []
        return [_category_codes(model), bare]
    return [model]


def wants_categories(model: Any) -> bool:
    """Whether a model that is `opened_up` looks for pandas' own categorical columns."""
    if type(model).__name__.startswith("LGBM"):
        return bool(getattr(model.booster_, "pandas_categorical", None))
    from_dtype = isinstance(getattr(model, "categorical_features", None), str)
    return from_dtype and getattr(model, "_preprocessor", None) is not None


def histogram_without_sets(model: Any, features: int) -> tuple[Any, list[CategorySplit]]:
    """Histogram gradient boosting over ``features`` and one more for each returned set, in that order."""
    changed = copy.copy(model)
    changed._predictors = copy.deepcopy(model._predictors)
    # `known` (categorical features, words); `number` is the row of a feature in it.
    known, number = model._bin_mapper.make_known_categories_bitsets()
    splits: dict[CategorySplit, int] = {}
    for group in changed._predictors:
        for tree in group:
            for node in np.flatnonzero(tree.nodes["is_categorical"] & (tree.nodes["is_leaf"] == 0)):
                feature = int(tree.nodes["feature_idx"][node])
                left = _members(tree.raw_left_cat_bitsets[tree.nodes["bitset_idx"][node]])
                split = CategorySplit(
                    feature=feature,
                    left=left,
                    right=_members(known[number[feature]]) - left,
                    # A code in neither set was not met in training, and goes where missing values go.
                    others_left=bool(tree.nodes["missing_go_to_left"][node]),
                )
                # Nodes that ask for the same set share its feature.
                tree.nodes["feature_idx"][node] = features + splits.setdefault(split, len(splits))
                # The feature is 0 inside the set, which goes left, and 1 outside.
                tree.nodes["num_threshold"][node] = 0.5
                tree.nodes["is_categorical"][node] = 0
    changed.n_features_in_ = features + len(splits)
    changed.is_categorical_ = None
    return changed, list(splits)


def lightgbm_without_sets(lines: Sequence[str], features: int) -> tuple[list[str], list[CategorySplit]]:
    """LightGBM's model text over ``features`` and one more for each returned set, in that order."""
    splits: dict[CategorySplit, int] = {}
    changed, tree = list[str](), dict[str, str]()
    # The sentinel closes the last tree where no blank line does; it is not written itself.
    for line in [*lines, "Tree=end"]:
        if tree and (line.startswith("Tree=") or not line):
            changed += [f"{key}={value}" for key, value in _without_sets(tree, features, splits).items()]
            tree = {}
        if line.startswith("Tree=") or tree:
            key, _, value = line.partition("=")
            tree[key] = value
        else:
            changed.append(line)
    more = [f"set{i}" for i in range(len(splits))]
    # The head counts, names and bounds the features; LightGBM compares the three.
    wider: dict[str, Callable[[str], str]] = {
        "max_feature_idx=": lambda text: str(int(text) + len(more)),
        "feature_names=": lambda text: " ".join([text, *more]),
        "feature_infos=": lambda text: " ".join([text, *(["[0:1]"] * len(more))]),
    }
    for i, line in enumerate(changed):
        for key, widen in wider.items():
            if more and line.startswith(key):
                changed[i] = key + widen(line.removeprefix(key))
    return changed, list(splits)


def _without_sets(tree: Mapping[str, str], features: int, splits: dict[CategorySplit, int]) -> dict[str, str]:
    """One tree's fields; a categorical node's threshold is the number of its set, what is in that goes left."""
    if not int(tree.get("num_cat", 0)):
        return dict(tree)
    feature, threshold, decision = (tree[k].split() for k in ("split_feature", "threshold", "decision_type"))
    starts, words = ([int(n) for n in tree[k].split()] for k in ("cat_boundaries", "cat_threshold"))
    for node, kind in enumerate(decision):
        if int(kind) & _CATEGORICAL:
            own = int(threshold[node])
            members = _members(words[starts[own] : starts[own + 1]])
            # LightGBM sends right whatever is not in the set: unknown codes and missing values.
            split = CategorySplit(int(feature[node]), members, frozenset(), others_left=False)
            feature[node] = str(features + splits.setdefault(split, len(splits)))
            # Kind 0: numeric, with no value that counts as missing.
            threshold[node], decision[node] = "0.5", "0"
    changed = {key: value for key, value in tree.items() if key not in {"cat_boundaries", "cat_threshold"}}
    joined = {"split_feature": feature, "threshold": threshold, "decision_type": decision}
    return changed | {"num_cat": "0"} | {key: " ".join(values) for key, values in joined.items()}


def with_set_features(
    assembly: Assembly, features: str, splits: Sequence[CategorySplit], *, whole: bool = False
) -> str:
    """The features, and for each split 0 where it goes left and 1 where it goes right, side by side.

    ``whole``: a fraction counts as the whole number towards zero from it, as LightGBM takes it.
    """
    by_feature: dict[int, list[int]] = {}
    for place, split in enumerate(splits):
        by_feature.setdefault(split.feature, []).append(place)
    blocks, placed = [], list[int]()
    for feature, places in by_feature.items():
        cell = assembly.call("Gather", features, assembly.constant([feature], np.int64), axis=1)
        if whole:
            cell = assembly.call("Mul", assembly.call("Sign", cell), assembly.call("Floor", assembly.call("Abs", cell)))
        blocks.append(_sides(assembly, cell, [splits[p] for p in places]))
        placed += places
    # The blocks stand by feature; the sort undoes that, since nodes name the sets by their number.
    order = assembly.constant(np.argsort(placed, kind="stable"), np.int64)
    sides = blocks[0] if len(blocks) == 1 else assembly.call("Concat", *blocks, axis=1)
    return assembly.call("Concat", features, assembly.call("Gather", sides, order, axis=1), axis=1)


def _sides(assembly: Assembly, cell: str, splits: Sequence[CategorySplit]) -> str:
    """(N, 1) to (N, splits): the side of anything else, and what a hit on a known code changes in it. All exact."""
    codes = sorted(set().union(*(s.left | s.right for s in splits)))
    others = np.array([0.0 if s.others_left else 1.0 for s in splits])
    # (codes, splits)
    side = np.array([[_side(s, code, other) for s, other in zip(splits, others, strict=True)] for code in codes])
    # (N, codes), with at most one hit in a row: each sum has one term, and nothing is rounded.
    hits = assembly.call("Cast", assembly.call("Equal", cell, assembly.constant([codes])), to=1)
    return assembly.call(
        "Add", assembly.call("MatMul", hits, assembly.constant(side - others)), assembly.constant([others])
    )


def _side(split: CategorySplit, code: int, other: float) -> float:
    return 0.0 if code in split.left else 1.0 if code in split.right else other


def _members(bits: Any) -> frozenset[int]:
    return frozenset(
        word * _BITS + bit for word, value in enumerate(bits) for bit in range(_BITS) if int(value) >> bit & 1
    )


def _by_number(transformer: Any) -> Any:
    """A ColumnTransformer whose columns are numbers, not a mask; a function that only checks its input does nothing."""
    from sklearn.preprocessing import FunctionTransformer

    changed = copy.copy(transformer)
    parts = []
    for name, part, chosen in transformer.transformers_:
        columns = np.flatnonzero(chosen).tolist() if np.asarray(chosen).dtype == bool else chosen
        parts.append((name, FunctionTransformer() if type(part).__name__ == "FunctionTransformer" else part, columns))
    changed.transformers_ = parts
    return changed


def _category_codes(model: Any) -> Any:
    """What LightGBM does to a table with categorical columns: the place among the categories; NaN for another value."""
    from sklearn.compose import ColumnTransformer

    booster, count = model.booster_, model.n_features_in_
    # A booster out of a pickle remembers its parameters in its text only.
    match = re.search(r"^\[categorical_feature: ([0-9,]*)\]$", booster.model_to_string(num_iteration=1), re.MULTILINE)
    columns = [int(place) for place in match.group(1).split(",") if place] if match else []
    if len(columns) != len(booster.pandas_categorical):
        raise UnsupportedError(
            f"{type(model).__name__}: {len(columns)} categorical features, {len(booster.pandas_categorical)} of them "
            "categorical columns of pandas; make all of them such columns, or none"
        )
    categories = dict(zip(columns, booster.pandas_categorical, strict=True))
    transformer = ColumnTransformer([])
    transformer.transformers_ = [(f"column{i}", _code_of(categories, i), [i]) for i in range(count)]
    transformer.output_indices_ = {f"column{i}": slice(i, i + 1) for i in range(count)}
    transformer.sparse_output_, transformer.n_features_in_ = False, count
    return transformer


def _code_of(categories: Mapping[int, Sequence[Any]], column: int) -> Any:
    from sklearn.preprocessing import OrdinalEncoder

    if column not in categories:
        return "passthrough"
    known = np.array(list(categories[column]))
    known = known if known.dtype.kind in "iuf" else known.astype(object)
    encoder = OrdinalEncoder(
        categories=[known], handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan
    )
    return encoder.fit(known[:, None])

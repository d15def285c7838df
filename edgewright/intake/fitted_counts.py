"""Fitted estimators whose counts compiled code takes as they are: they are compared with their arrays here.

libsvm walks support vectors by the counts of each class, a forest reads the features that its trees name, gradient
boosting writes as many columns as it has trees in a stage, and k-means multiplies by as many features as a centre has.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import InputError

__all__ = ["inspect_counts"]

_ONE_OUTPUT = {"SVR", "NuSVR", "OneClassSVM"}  # which libsvm takes for two classes


def inspect_counts(thing: Any, path: Path) -> None:
    """Look at a fitted support vector machine, tree, forest, booster or k-means; pass on others.

    Raises:
        InputError: counts that do not fit its arrays.
    """
    bases = {base.__name__ for base in type(thing).__mro__}
    for base, fits in _FITS.items():
        if base in bases:
            try:
                sound = fits(thing)
            except (AttributeError, TypeError, ValueError, IndexError, KeyError) as e:
                raise InputError(f"{path}: damaged: {type(thing).__name__} with arrays of no known form: {e}") from e
            if not sound:
                raise InputError(f"{path}: damaged: {type(thing).__name__} whose counts do not fit its arrays")


def _machine(machine: Any) -> bool:
    """Of libsvm: see `svm_model` in svm.h."""
    # What is stored, which compiled code reads: `n_support_` and `coef_` are properties that compute.
    held = vars(machine)
    if "support_" not in held:  # not fitted
        return True
    support, of_class, vectors = held["support_"], held["_n_support"], held["support_vectors_"]
    count, classes = len(support), len(of_class)
    pairs = classes * (classes - 1) // 2
    is_by_row = callable(machine.kernel) or machine.kernel == "precomputed"  # their vectors are rows of training
    one_output = type(machine).__name__ in _ONE_OUTPUT
    return bool(
        classes >= 2
        and support.ndim == of_class.ndim == 1
        and ((support >= 0) & (support < held["shape_fit_"][0])).all()
        and (of_class >= 0).all()
        and (classes == 2 if one_output else of_class.sum() == count and classes == len(held["classes_"]))
        and (is_by_row or vectors.shape == (count, held["n_features_in_"]))
        and held["_dual_coef_"].shape == held["dual_coef_"].shape == (classes - 1, count)
        and held["_intercept_"].shape == held["intercept_"].shape == (pairs,)
        and held["_probA"].shape == held["_probB"].shape
        and held["_probA"].size in {0, pairs}
    )


def _tree(model: Any) -> bool:
    tree = vars(model).get("tree_")
    return tree is None or tree.n_features == model.n_features_in_


def _trees(model: Any) -> bool:
    """Of a forest, of bagging or of gradient boosting: its own features are what it checks of the rows."""
    held = vars(model)
    # Gradient boosting has (stages, classes) of them, a forest a list.
    trees = [each for each in np.ravel(np.array(held.get("estimators_", []), object)) if hasattr(each, "tree_")]
    features = held.get("estimators_features_")
    if features is None:
        return all(each.tree_.n_features == model.n_features_in_ for each in trees)
    return len(features) >= len(trees) and all(
        each.tree_.n_features == len(own) for each, own in zip(trees, features, strict=False)
    )


def _stages(model: Any) -> bool:
    held = vars(model)
    return "estimators_" not in held or held["estimators_"].shape[1] == model.n_trees_per_iteration_


def _histograms(model: Any) -> bool:
    stages = vars(model).get("_predictors", [])
    return all(_histogram_tree(tree, model.n_features_in_) for stage in stages for tree in stage)


def _histogram_tree(tree: Any, features: int) -> bool:
    inner = tree.nodes[tree.nodes["is_leaf"] == 0]
    by_category = inner[inner["is_categorical"] != 0]["bitset_idx"]
    # A set is 8 words of 32 bits: the 256 codes that a feature has at most.
    sets = tree.raw_left_cat_bitsets
    asked = inner["feature_idx"].astype(np.int64)
    return bool(
        ((asked >= 0) & (asked < features)).all() and sets.shape == (len(sets), 8) and (by_category < len(sets)).all()
    )


def _centres(model: Any) -> bool:
    centres = vars(model).get("cluster_centers_")
    return centres is None or centres.shape == (len(centres), model.n_features_in_)


_FITS: dict[str, Callable[[Any], bool]] = {
    "BaseLibSVM": _machine,
    "BaseDecisionTree": _tree,
    "BaseForest": _trees,
    "BaseBagging": _trees,
    "BaseGradientBoosting": lambda model: _trees(model) and _stages(model),
    "BaseHistGradientBoosting": _histograms,
    "_BaseKMeans": _centres,
}
"""By the class of scikit-learn that an estimator derives from."""

"""Fitted estimators in a form that skl2onnx converts rightly: the same answers from simpler parts."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright.intake.column_places import places_kept
from edgewright.intake.column_steps import Filled, Picked, Powers, Splined
from edgewright.intake.elementwise_steps import Elementwise, function_name
from edgewright.intake.tabulated import tabulate_numbers
from edgewright.intake.term_weights import term_weights

__all__ = ["knows_texts", "options_for", "plain_attributes", "unknown_categories_note", "with_convertible_parts"]

# Where these have no probabilities, their converters give decisions by `raw_scores`.
_LINEAR = {"LinearSVC", "SVC", "NuSVC", "RidgeClassifier", "SGDClassifier", "Perceptron", "PassiveAggressiveClassifier"}


def with_convertible_parts(estimator: Any) -> Any:
    """A copy in which parts that skl2onnx knows not, or not rightly, are replaced by what says the same."""
    return _replaced(copy.deepcopy(estimator))


def _replaced(part: Any) -> Any:
    if hasattr(part, "steps"):
        part.steps = [(name, _replaced(step)) for name, step in part.steps]
        return part
    if hasattr(part, "transformers_"):
        part.transformers_ = [(name, _replaced(step), columns) for name, step, columns in part.transformers_]
        return part
    if hasattr(part, "transformer_list"):
        part.transformer_list = [(name, _replaced(step)) for name, step in part.transformer_list]
        return part
    # A fitted selector of features only picks columns.
    if (places := places_kept(part)) is not None:
        return Picked(places)
    own = _OWN.get(type(part).__name__)
    return part if own is None else own(part)


def _densely(part: Any) -> Any:
    if part.encode == "onehot":
        part.encode = "onehot-dense"  # the same numbers; ONNX has no sparse ones
    return part


def _without_flags(part: Any) -> Any:
    if part.add_indicator:
        raise UnsupportedError("KNNImputer with add_indicator; put a MissingIndicator beside it in a FeatureUnion")
    return part


def _no_process(_: Any) -> Any:
    raise UnsupportedError(
        "GaussianProcessClassifier has no path: its answer needs an operator that ONNX does not have; take an SVC with "
        "probability=True"
    )


def _uniform(part: Any) -> Any:
    if part.output_distribution == "normal":
        raise UnsupportedError(
            "QuantileTransformer with output_distribution='normal' has no path; fit it with 'uniform', or take a "
            "PowerTransformer"
        )
    return part


def _elementwise(part: Any) -> Elementwise:
    if part.kw_args:
        raise UnsupportedError("FunctionTransformer with kw_args; fit it with a function of one argument")
    return Elementwise(function_name(part.func, "FunctionTransformer"))


def unknown_categories_note(estimator: Any, *, table: bool) -> tuple[str, ...]:
    """What becomes of categories that the model's encoder would refuse."""
    for part in _all_parts(estimator):
        if type(part).__name__ in {"OneHotEncoder", "OrdinalEncoder"} and part.handle_unknown == "error":
            on_device = "a device refuses such a row, too" if table else "on a device one counts as none of them"
            return (f"{type(part).__name__} refuses unknown categories in scikit-learn; {on_device}",)
    return ()


def knows_texts(estimator: Any) -> bool:
    """Whether some encoder of the model has texts among its categories."""
    return any(
        isinstance(value, str)
        for part in _all_parts(estimator)
        for values in (*getattr(part, "categories_", ()), *_categories_of_table(part))
        for value in values
    )


def _categories_of_table(part: Any) -> Any:
    if type(part).__name__.startswith("LGBM"):
        return part.booster_.pandas_categorical or ()
    return part._preprocessor.named_transformers_["encoder"].categories_ if getattr(part, "_preprocessor", None) else ()


def _as_logistic_regression(part: Any) -> Any:
    """Linear discriminant analysis predicts as a logistic regression with its coefficients does."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression()
    for name in ("coef_", "intercept_", "classes_", "n_features_in_", "feature_names_in_"):
        if hasattr(part, name):
            setattr(model, name, getattr(part, name))
    return model


_OWN: dict[str, Callable[[Any], Any]] = {
    "FunctionTransformer": _elementwise,
    "GaussianProcessClassifier": _no_process,
    "KBinsDiscretizer": _densely,
    "KNNImputer": _without_flags,
    "LinearDiscriminantAnalysis": _as_logistic_regression,
    "MissingIndicator": Filled.of_indicator,
    "OneHotEncoder": tabulate_numbers,
    "OrdinalEncoder": tabulate_numbers,
    "PowerTransformer": Powers.of_transformer,
    "QuantileTransformer": _uniform,
    "SimpleImputer": Filled.of_imputer,
    "SplineTransformer": Splined.of_transformer,
    "TargetEncoder": tabulate_numbers,
    "TfidfTransformer": term_weights,
}


def options_for(estimator: Any, *, decision: bool) -> Iterator[dict[int, dict[str, Any]] | None]:
    """Options of skl2onnx to be tried in turn: each converter refuses those that it does not have.

    ``decision``: the last step is to give the scores of `decision_function`, not probabilities.
    """
    named: dict[int, dict[str, Any]] = {}
    for part in _all_parts(estimator):
        kind = type(part).__name__
        if kind in _LINEAR and not hasattr(part, "predict_proba"):
            named[id(part)] = {"raw_scores": True}
        elif kind == "LocalOutlierFactor" or kind.startswith("KNeighbors"):
            # Distances of all pairs in one operator, in place of a loop over the rows.
            named[id(part)] = {"optim": "cdist"}
    if decision:
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        named[id(last)] = {"raw_scores": True}
    for zipmap in (True, False):
        for inner in (True, False):
            options = {key: dict(value) for key, value in named.items()} if inner else {}
            if zipmap:
                options.setdefault(id(estimator), {})["zipmap"] = False
            yield options or None


def _all_parts(estimator: Any) -> Iterator[Any]:
    yield estimator
    for _, step in getattr(estimator, "steps", []):
        yield from _all_parts(step)
    for _, step, _ in getattr(estimator, "transformers_", []):
        yield from _all_parts(step)
    for _, step in getattr(estimator, "transformer_list", []):
        yield from _all_parts(step)
    for name in ("best_estimator_", "estimator_", "final_estimator_"):
        if hasattr(estimator, name):
            yield from _all_parts(getattr(estimator, name))
    # Boosting keeps an array of trees, a vote a list in which 'drop' may stand.
    for part in np.ravel(np.asarray(getattr(estimator, "estimators_", []), dtype=object)):
        if hasattr(part, "predict"):
            yield from _all_parts(part)


@contextmanager
def plain_attributes() -> Iterator[None]:
    """While converting, numpy's booleans become integers: skl2onnx 1.20 writes some, protobuf takes none."""
    # skl2onnx makes every node by this name of that module.
    from skl2onnx.common import _container

    original = _container.make_node

    def make_node(kind: str, inputs: Any, outputs: Any, **attributes: Any) -> Any:
        plain = {k: _plain(v) if isinstance(v, (list, tuple, np.ndarray)) else v for k, v in attributes.items()}
        return original(kind, inputs, outputs, **plain)

    _container.make_node = make_node
    try:
        yield
    finally:
        _container.make_node = original


def _plain(values: Any) -> Any:
    return [int(v) if isinstance(v, (bool, np.bool_)) else v for v in values]

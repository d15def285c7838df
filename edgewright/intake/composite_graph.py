"""Models made of models as one ONNX graph: voting, stacking, calibration, one class against the rest.

Each part is converted by itself and answers as it does alone; a few operators put the answers together as scikit-learn
does. Steps that stand before such a model in a pipeline go before each part, so that a scaler meets the trees behind it
(see `exact_trees`). Runs in a child process.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from skl2onnx.common.data_types import FloatTensorType

from edgewright.errors import UnsupportedError
from edgewright.intake.assembly import Assembly, columns_of_output
from edgewright.intake.boosted_graph import boosted_trees, sparse_output
from edgewright.intake.category_splits import histogram_without_sets, opened_up, with_set_features
from edgewright.intake.column_steps import Picked
from edgewright.intake.decision_threshold import decides_at_threshold, decision_threshold, inner_classifier
from edgewright.intake.elementwise_steps import function_name, write_function
from edgewright.intake.estimator_graph import (
    PREDICTION,
    SCORES,
    classes_of,
    estimator_graph,
    transformer_graph,
    with_decision,
)
from edgewright.intake.exact_trees import Scaling, computed_features, without_scaler
from edgewright.intake.isotonic_graph import calibrated
from edgewright.intake.neighbours_graph import neighbours

__all__ = ["Conversion"]


@dataclass(frozen=True)
class Conversion:
    """How a model is to be converted: its inputs, and the fitted steps that stand before it.

    ``scalings``: what scalers that were taken out before did to the inputs; ``computed``: inputs that steps before
    computed (see `exact_trees`).
    """

    types: Any
    decimals: bool
    before: tuple[Any, ...] = ()
    scalings: Mapping[int, Scaling] | None = None
    computed: frozenset[int] = frozenset()

    def graph(self, estimator: Any, *, decision: bool = False) -> onnx.ModelProto:
        """The graph of any fitted model; arguments and errors as of `estimator_graph`."""
        # A search, as GridSearchCV, answers by the best model that it found.
        if hasattr(estimator, "best_estimator_"):
            return self.graph(estimator.best_estimator_, decision=decision)
        if type(estimator).__name__ == "FrozenEstimator":
            return self.graph(estimator.estimator, decision=decision)
        if decides_at_threshold(estimator):
            return self.graph(inner_classifier(estimator), decision=decision)
        # A model over the columns that it selected, such as RFE.
        if hasattr(estimator, "get_support") and hasattr(estimator, "estimator_"):
            picked = Picked(estimator.get_support(indices=True).tolist())
            return replace(self, before=(*self.before, picked)).graph(estimator.estimator_, decision=decision)
        if hasattr(estimator, "steps"):
            # None and 'passthrough' do nothing.
            *steps, final = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
            return replace(self, before=(*self.before, *steps)).graph(final, decision=decision)
        *encoders, bare = opened_up(estimator)
        if encoders:
            return self._over_codes(encoders[0], bare, decision=decision)
        # A ColumnTransformer behind other steps has to be told how many features reach it.
        cut = next((i for i, step in enumerate(self.before) if i and hasattr(step, "transformers_")), None)
        if cut is not None:
            return self._in_two(estimator, cut, decision=decision)
        if type(estimator).__name__.startswith(("XGB", "LGBM")):
            return _boosted(self, estimator, decision=decision)
        if getattr(estimator, "is_categorical_", None) is not None:
            return _histogram(self, estimator, decision=decision)
        composition = _COMPOSITIONS.get(type(estimator).__name__)
        if composition is not None and not decision:
            return composition(self, estimator)
        # Without probabilities, as in OneVsRestClassifier over LinearSVC, the scores are decisions.
        if composition is not None and not hasattr(estimator, "predict_proba"):
            graph = composition(self, estimator)
            return with_decision(graph, single=True) if len(estimator.classes_) == 2 else graph
        return self.of_whole(estimator, decision=decision)

    def deciding(self, estimator: Any) -> onnx.ModelProto:
        """The same, with scores of which the greatest is that of the class that a threshold of the model decides."""
        threshold = decision_threshold(estimator)
        if threshold is None:
            return self.graph(estimator)
        assembly = self.assembly()
        given = assembly.part(self.graph(estimator, decision=threshold.method == "decision_function"))
        return assembly.finish(threshold.written(assembly, given), SCORES, 2)

    def _over_codes(self, encoders: Any, trees: Any, *, decision: bool) -> onnx.ModelProto:
        """Trees over a ColumnTransformer's codes and the columns that it lets pass, whose scalers meet the trees."""
        before, scalings = without_scaler(self.before)
        carried, coded = dict[int, Scaling](), set[int]()
        for name, part, columns in encoders.transformers_:
            where = encoders.output_indices_[name]
            passed = isinstance(part, str) or type(part).__name__ == "FunctionTransformer"
            for feature, column in zip(range(where.start, where.stop), columns, strict=True):
                if not passed:
                    coded.add(column)
                elif column in scalings:
                    carried[feature] = scalings[column]
        # The encoder was fitted on scaled values and has to see such: then no scaler is taken out.
        if coded & scalings.keys():
            before, carried = self.before, {}
        return replace(self, before=(*before, encoders), scalings=carried).graph(trees, decision=decision)

    def _in_two(self, estimator: Any, cut: int, *, decision: bool) -> onnx.ModelProto:
        """The steps before the ``cut``, and the rest over their features: skl2onnx forgets how many these are."""
        head = replace(self, before=self.before[:cut])
        assembly, encoded = self.assembly(), head.encoded()
        types = [("features", FloatTensorType([None, columns_of_output(encoded)]))]
        rest = Conversion(types, self.decimals, self.before[cut:], self.scalings).graph(estimator, decision=decision)
        output = assembly.part(rest, {"features": assembly.part(encoded)})
        return assembly.finish(output, rest.graph.output[0].name, columns_of_output(rest))

    def encoded(self) -> onnx.ModelProto:
        """The steps before the model by themselves."""
        from sklearn.pipeline import Pipeline

        return transformer_graph(Pipeline([(f"step{i}", step) for i, step in enumerate(self.before)]), self.types)

    def whole(self, estimator: Any) -> Any:
        """The estimator with the steps before it."""
        if not self.before:
            return estimator
        from sklearn.pipeline import Pipeline

        return Pipeline([(f"step{i}", step) for i, step in enumerate((*self.before, estimator))])

    def of_whole(self, estimator: Any, *, decision: bool = False) -> onnx.ModelProto:
        """The graph of an estimator that skl2onnx converts as it is, with the steps before it."""
        return estimator_graph(
            self.whole(estimator),
            self.types,
            decimals=self.decimals,
            decision=decision,
            scalings=self.scalings,
            computed=self.computed,
        )

    def assembly(self) -> Assembly:
        """An empty graph over the inputs."""
        number = onnx.TensorProto.FLOAT
        return Assembly([onnx.helper.make_tensor_value_info(n, number, list(kind.shape)) for n, kind in self.types])

    def features(self, assembly: Assembly) -> str:
        """What the steps before the model make of the inputs, (N, features)."""
        return assembly.part(self.encoded()) if self.before else str(self.types[0][0])


def _voting_classifier(how: Conversion, model: Any) -> onnx.ModelProto:
    """Weighted means of probabilities, or of votes by heads."""
    assembly, weights = how.assembly(), _weights(model)
    soft = model.voting == "soft"
    answers = [
        assembly.part(how.graph(part)) if soft else _heads(assembly, how, part, len(model.classes_))
        for part in model.estimators_
    ]
    # A mean keeps probabilities; of votes only the order of the sums matters.
    total = _weighted_sum(assembly, answers, weights / weights.sum() if soft else weights)
    if not soft:
        # Votes are not probabilities: 1 for the class with most, the first of equals as in scikit-learn.
        total = _one_hot(assembly, assembly.call("ArgMax", total, axis=1, keepdims=1), len(model.classes_))
    return assembly.finish(total, SCORES, len(model.classes_))


def _voting_regressor(how: Conversion, model: Any) -> onnx.ModelProto:
    assembly, weights = how.assembly(), _weights(model)
    answers = [assembly.part(how.graph(part)) for part in model.estimators_]
    return assembly.finish(_weighted_sum(assembly, answers, weights / weights.sum()), PREDICTION, 1)


def _weights(model: Any) -> Any:
    # scikit-learn's own, without the weights of parts that were dropped.
    given = model._weights_not_none
    return np.ones(len(model.estimators_)) if given is None else np.asarray(given, dtype=np.float64)


def _heads(assembly: Assembly, how: Conversion, part: Any, classes: int) -> str:
    """1 for the class that a part predicts: by its decision where it has one, from which probabilities may part."""
    decision = hasattr(part, "decision_function") and decision_threshold(part) is None
    scores = assembly.part(how.graph(part, decision=True) if decision else how.deciding(part))
    # (N, 1): above zero it is the second class.
    if decision and classes == 2:
        scores = assembly.call("Concat", assembly.call("Neg", scores), scores, axis=1)
    return _one_hot(assembly, assembly.call("ArgMax", scores, axis=1, keepdims=1), classes)


def _one_hot(assembly: Assembly, position: str, classes: int) -> str:
    return assembly.call("Cast", assembly.call("Equal", position, assembly.constant([range(classes)], np.int64)), to=1)


def _weighted_sum(assembly: Assembly, answers: Sequence[str], weights: Any) -> str:
    scaled = [assembly.call("Mul", a, assembly.constant(w)) for a, w in zip(answers, weights, strict=True)]
    return scaled[0] if len(scaled) == 1 else assembly.call("Sum", *scaled)


def _stacking(how: Conversion, model: Any) -> onnx.ModelProto:
    """The final estimator over what the parts say, as `StackingClassifier.transform` lays it out."""
    assembly = how.assembly()
    blocks = [_stacked(assembly, how, p, m) for p, m in zip(model.estimators_, model.stack_method_, strict=True)]
    if model.passthrough:
        blocks.append(how.features(assembly))
    joined = blocks[0] if len(blocks) == 1 else assembly.call("Concat", *blocks, axis=1)
    final = model.final_estimator_
    types = [("stacked", FloatTensorType([None, final.n_features_in_]))]
    # What the parts answer are float32 numbers, not decimals of a table.
    last = Conversion(types, decimals=False).graph(final)
    classes = classes_of(model)
    output = assembly.part(last, {"stacked": joined})
    return assembly.finish(output, PREDICTION if classes is None else SCORES, 1 if classes is None else len(classes))


def _stacked(assembly: Assembly, how: Conversion, part: Any, method: str) -> str:
    classes = classes_of(part)
    if classes is None:
        return assembly.part(how.graph(part))
    if method == "predict":
        if list(classes) != list(range(len(classes))):
            raise UnsupportedError(f"stacking over the labels of {type(part).__name__}, which are not positions")
        return assembly.call(
            "Cast", assembly.call("ArgMax", assembly.part(how.deciding(part)), axis=1, keepdims=1), to=1
        )
    scores = assembly.part(how.graph(part, decision=method == "decision_function"))
    # The second column says all, and is the one that scikit-learn keeps.
    if method == "predict_proba" and len(classes) == 2:
        return assembly.call("Gather", scores, assembly.constant([1], np.int64), axis=1)
    return scores


def _calibrated(how: Conversion, model: Any) -> onnx.ModelProto:
    """The mean over the folds' calibrated classifiers (Platt 1999; Zadrozny and Elkan 2002)."""
    assembly, folds = how.assembly(), []
    for fold in model.calibrated_classifiers_:
        # scikit-learn calibrates decisions where there are any, and else probabilities.
        decision = hasattr(fold.estimator, "decision_function")
        folds.append(
            calibrated(assembly, fold, assembly.part(how.graph(fold.estimator, decision=decision)), decision=decision)
        )
    total = _weighted_sum(assembly, folds, np.full(len(folds), 1 / len(folds)))
    return assembly.finish(total, SCORES, len(model.classes_))


def _one_against_rest(how: Conversion, model: Any) -> onnx.ModelProto:
    """A column from each binary model: its decision, or its probability over the sum of all."""
    assembly, classes = how.assembly(), len(model.classes_)
    probable = hasattr(model, "predict_proba")
    columns = []
    for part in model.estimators_:
        # scikit-learn puts a constant predictor of its own there, which has no classes.
        if not hasattr(part, "classes_"):
            raise UnsupportedError("OneVsRestClassifier: a class without examples in training")
        scores = assembly.part(how.graph(part, decision=not probable))
        columns.append(
            assembly.call("Gather", scores, assembly.constant([1], np.int64), axis=1) if probable else scores
        )
    joined = columns[0] if len(columns) == 1 else assembly.call("Concat", *columns, axis=1)
    # Two classes have one model, which speaks for the second.
    if len(columns) == 1:
        against = assembly.call("Sub", assembly.constant(1.0), joined) if probable else assembly.call("Neg", joined)
        joined = assembly.call("Concat", against, joined, axis=1)
    elif probable:
        joined = assembly.call(
            "Div", joined, assembly.call("ReduceSum", joined, assembly.constant([1], np.int64), keepdims=1)
        )
    return assembly.finish(joined, SCORES, classes)


def _transformed_target(how: Conversion, model: Any) -> onnx.ModelProto:
    """The regressor, and the line that takes its answers back to the target's own scale."""
    if model.func is None and model.transformer is None:
        return how.graph(model.regressor_)
    back = model.transformer_
    kind = type(back).__name__
    assembly = how.assembly()
    if model._training_dim == 1 and kind == "FunctionTransformer" and not back.inv_kw_args:
        name = function_name(back.inverse_func, "TransformedTargetRegressor")
        return assembly.finish(
            write_function(assembly, name, assembly.part(how.graph(model.regressor_))), PREDICTION, 1
        )
    if model._training_dim > 1 or kind not in {"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"}:
        raise UnsupportedError(
            f"TransformedTargetRegressor with a {kind}: functions of numpy and linear scalers of one target can be "
            "inverted"
        )
    # A linear map is known by two of its values.
    zero, one = (float(back.inverse_transform([[v]])[0, 0]) for v in (0.0, 1.0))
    scaled = assembly.call("Mul", assembly.part(how.graph(model.regressor_)), assembly.constant(one - zero))
    return assembly.finish(assembly.call("Add", scaled, assembly.constant(zero)), PREDICTION, 1)


def _neighbours(how: Conversion, model: Any) -> onnx.ModelProto:
    assembly = how.assembly()
    answers, columns = neighbours(assembly, model, how.features(assembly))
    return assembly.finish(answers, PREDICTION if classes_of(model) is None else SCORES, columns)


def _boosted(how: Conversion, model: Any, *, decision: bool = False) -> onnx.ModelProto:
    before, scalings = _without_scaler(how)
    assembly = how.assembly()
    features = replace(how, before=before).features(assembly)
    missing = model.missing if type(model).__name__.startswith("XGB") else np.nan
    # The model compares scaled values, and `before` has lost its scaler.
    if not np.isnan(missing):
        hit = assembly.call("Equal", how.features(assembly), assembly.constant(missing))
        features = assembly.call("Where", hit, assembly.constant(np.nan), features)
    if type(model).__name__.startswith("XGB") and before and sparse_output(before[-1]):
        # XGBoost takes what a sparse row does not hold for missing; a dense one holds zeros, which scaling may make.
        zero = assembly.call("Equal", how.features(assembly), assembly.constant(0.0))
        features = assembly.call("Where", zero, assembly.constant(np.nan), features)
    classes = classes_of(model)
    trees, splits = boosted_trees(model, scalings, decimals=how.decimals, decision=decision)
    if splits:
        features = with_set_features(assembly, features, splits, whole=True)
    scores = assembly.part(trees, {"features": features})
    if classes is None:
        return assembly.finish(scores, PREDICTION, 1)
    if decision and len(classes) == 2:
        return assembly.finish(assembly.call("Gather", scores, assembly.constant([1], np.int64), axis=1), SCORES, 1)
    return assembly.finish(scores, SCORES, len(classes))


def _without_scaler(how: Conversion) -> tuple[tuple[Any, ...], dict[int, Scaling]]:
    before, scalings = without_scaler(how.before)
    return before, {**(how.scalings or {}), **scalings}


def _histogram(how: Conversion, model: Any, *, decision: bool) -> onnx.ModelProto:
    """Histogram boosting that splits on sets of categories."""
    before, scalings = _without_scaler(how)
    assembly = how.assembly()
    features = replace(how, before=before).features(assembly)
    plain, splits = histogram_without_sets(model, model.n_features_in_)
    if any(split.feature in scalings for split in splits):
        raise UnsupportedError(
            f"{type(model).__name__}: a categorical feature that is scaled before; leave it as it is"
        )
    if splits:
        features = with_set_features(assembly, features, splits)
    types = [("features", FloatTensorType([None, plain.n_features_in_]))]
    computed = frozenset(computed_features(before, model.n_features_in_))
    trees = replace(how, types=types, before=(), scalings=scalings, computed=computed).graph(plain, decision=decision)
    scores = assembly.part(trees, {"features": features})
    columns = columns_of_output(trees)
    return assembly.finish(scores, PREDICTION if classes_of(model) is None else SCORES, columns)


def _exponential(how: Conversion, model: Any) -> onnx.ModelProto:
    """Histogram boosting of counts and other positive targets predicts their logarithm."""
    plain = copy.copy(model)
    # Of this loss skl2onnx writes the trees' sum as it is.
    plain.loss = "squared_error"
    graph = how.of_whole(plain)
    if model.loss not in {"poisson", "gamma"}:
        return graph
    assembly = how.assembly()
    return assembly.finish(assembly.call("Exp", assembly.part(graph)), PREDICTION, columns_of_output(graph))


_COMPOSITIONS: dict[str, Callable[[Conversion, Any], onnx.ModelProto]] = {
    "VotingClassifier": _voting_classifier,
    "VotingRegressor": _voting_regressor,
    "StackingClassifier": _stacking,
    "StackingRegressor": _stacking,
    "CalibratedClassifierCV": _calibrated,
    "OneVsRestClassifier": _one_against_rest,
    "TransformedTargetRegressor": _transformed_target,
    "KNeighborsClassifier": _neighbours,
    "KNeighborsRegressor": _neighbours,
    "HistGradientBoostingRegressor": _exponential,
}

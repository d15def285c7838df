"""Encoders, scalers and linear models of the domain ai.onnx.ml.

Each handler follows the operator of the same name in the ONNX specification (https://onnx.ai/onnx/operators/).
Strings do not come this far: categories of text are codes already (`raw_columns`).
"""

import math
from collections.abc import Callable

import torch

from edgewright.intake.builder import Builder, Op, Operand, Result, operand, refuse
from edgewright.intake.operators.convolution import layer_name, linear
from edgewright.intake.operators.trees import label_of, post_transformed

__all__ = ["HANDLERS"]


_EXACT = 1 << 24
"""Up to here float32 holds every whole number."""


def _cast(b: Builder, x: Operand, dtype: torch.dtype) -> Operand:
    return x if b.dtype(x) == dtype else b.call(torch.Tensor.to, x, dtype)


def _float(b: Builder, x: Operand) -> Operand:
    return _cast(b, x, torch.float32)


def one_hot_encoder(b: Builder, op: Op) -> Result:
    """OneHotEncoder: (..., ) -> (..., categories) float32; what is in no category gives zeros."""
    categories = op.get("cats_int64s")
    if categories is None or not op.get("zeros", 1):
        raise refuse(op, "categories that are text, or an error for unknown ones")
    # Whole numbers, as ONNX Runtime compares them: real ones lose their fraction, and large ones keep every digit.
    wide = b.call(torch.unsqueeze, _cast(b, operand(op, 0), torch.int64), -1)
    hit = b.call(torch.eq, wide, torch.tensor(categories))
    # Of a category that is named twice the last column counts.
    place = {category: at for at, category in enumerate(categories)}
    last = torch.tensor([place[category] == at for at, category in enumerate(categories)])
    hit = hit if last.all() else b.call(torch.logical_and, hit, last)
    return b.call(torch.Tensor.to, hit, torch.float32)


def label_encoder(b: Builder, op: Op) -> Result:
    """LabelEncoder between numbers: the position of the equal key picks the value, or the default."""
    default, default_int64, default_float = (op.get(f"default_{kind}") for kind in ("tensor", "int64", "float"))
    keys = next((op.get(k) for k in ("keys_floats", "keys_int64s", "keys_tensor") if op.get(k) is not None), None)
    values = next(
        (op.get(k) for k in ("values_floats", "values_int64s", "values_tensor") if op.get(k) is not None), None
    )
    if keys is None or values is None:
        raise refuse(op, "keys or values that are text")
    x = operand(op, 0)
    # Whole numbers are compared as such: float32 would take large ones for each other.
    known = torch.as_tensor(keys).to(torch.float32 if b.dtype(x).is_floating_point else b.dtype(x))
    results = torch.as_tensor(values)
    # Of a key that is named twice the first value counts; NaN, which equals nothing, by the text that it is written as.
    first = list({str(key): at for at, key in reversed(list(enumerate(known.tolist())))}.values())
    known, results = known[first], results[first]
    dtype = torch.float32 if results.is_floating_point() else results.dtype
    if default is not None:
        fallback = default.reshape(-1)[0]
    # The specification's defaults: -1 for whole numbers, 0 for real ones.
    elif dtype == torch.float32:
        fallback = 0.0 if default_float is None else default_float
    else:
        fallback = -1 if default_int64 is None else default_int64
    hit = _equal(b, b.call(torch.unsqueeze, _cast(b, x, known.dtype), -1), known)
    if dtype != torch.float32 and max(abs(int(fallback)), int(results.abs().max())) > _EXACT:
        # Of what is added for a hit the fallback is left out: it is added for every one.
        added = b.call(torch.mul, b.call(torch.Tensor.to, hit, torch.int64), results.long() - int(fallback))
        return _cast(b, b.call(torch.add, b.call(torch.sum, added, [-1]), int(fallback)), dtype)
    weights = b.call(torch.Tensor.to, hit, torch.float32)
    return _cast(b, _answered(b, weights, results.float(), float(fallback)), dtype)


def _equal(b: Builder, wide: Operand, keys: torch.Tensor) -> Operand:
    """Which key a number equals (..., keys); NaN is one, too."""
    missing = keys.isnan()
    if not missing.any():
        return b.call(torch.eq, wide, keys)
    # Core ML takes no NaN for a constant; nothing that is finite on a device equals this.
    hit = b.call(torch.eq, wide, torch.where(missing, -torch.finfo(torch.float32).max, keys))
    return b.call(torch.logical_or, hit, b.call(torch.logical_and, b.call(torch.isnan, wide), missing))


def _answered(b: Builder, hits: Operand, results: torch.Tensor, fallback: float) -> Operand:
    """The result of the one hit (..., keys), or the fallback; either may be NaN.

    NaN times zero is NaN, so what answers NaN is not weighed: there 0 / 0 makes it, and elsewhere 1 / 1 is a factor,
    since Core ML takes no NaN for a constant.
    """
    finite = (~results.isnan()).float()
    total: Operand = b.call(torch.sum, b.call(torch.mul, hits, torch.where(finite > 0, results, 0.0)), [-1])
    missed = b.call(torch.sub, 1.0, b.call(torch.sum, hits, [-1]))
    if not math.isnan(fallback):
        total = b.call(torch.add, total, b.call(torch.mul, missed, fallback))
    if math.isnan(fallback) or not finite.all():
        # 1 where the answer is a number, 0 where it is not: divided by itself, 1 or NaN.
        known: Operand = b.call(torch.sum, b.call(torch.mul, hits, finite), [-1])
        known = known if math.isnan(fallback) else b.call(torch.add, known, missed)
        total = b.call(torch.mul, total, b.call(torch.div, known, known))
    return total


def imputer(b: Builder, op: Op) -> Result:
    """Imputer: what equals the replaced value (usually NaN) takes its column's constant."""
    x = operand(op, 0)
    constants = op.get("imputed_value_floats") or op.get("imputed_value_int64s")
    replaced = op.get("replaced_value_float", op.get("replaced_value_int64", 0))
    fill = torch.tensor(constants, dtype=b.dtype(x))
    missing = b.call(torch.isnan, x) if math.isnan(replaced) else b.call(torch.eq, x, replaced)
    return b.call(torch.where, missing, fill, x)


def scaler(b: Builder, op: Op) -> Result:
    """Scaler: (x - offset) * scale."""
    x = _float(b, operand(op, 0))
    offset, scale = (torch.tensor(op.get(k), dtype=torch.float32) for k in ("offset", "scale"))
    # Constants that do nothing are left out of the graph.
    centred = x if not offset.any() else b.call(torch.sub, x, offset)
    return centred if (scale == 1).all() else b.call(torch.mul, centred, scale)


def normalizer(b: Builder, op: Op) -> Result:
    """Normalizer of rows: MAX, L1 or L2; a row of zeros stays."""
    x = _float(b, operand(op, 0))
    match op.get("norm", "MAX"):
        case "MAX":
            # The largest, not the largest in size: so it stands in the specification, and so ONNX Runtime has it.
            size = b.call(torch.amax, x, [1], True)
        case "L1":
            size = b.call(torch.sum, b.call(torch.abs, x), [1], True)
        case _:
            size = b.call(torch.sqrt, b.call(torch.sum, b.call(torch.mul, x, x), [1], True))
    # 0 / 0 would be NaN: a row of zeros is divided by 1.
    one = torch.ones(())
    return b.call(torch.div, x, b.call(torch.where, b.call(torch.eq, size, 0.0), one, size))


def binarizer(b: Builder, op: Op) -> Result:
    """Binarizer: 1 above the threshold, else 0."""
    x = operand(op, 0)
    return b.call(torch.Tensor.to, b.call(torch.gt, x, op.get("threshold", 0.0)), b.dtype(x))


def array_feature_extractor(b: Builder, op: Op) -> Result:
    """ArrayFeatureExtractor: columns of the last axis."""
    x, indices = operand(op, 0), operand(op, 1)
    if b.rank(x) == 1:
        x = b.call(torch.unsqueeze, x, 0)
    return b.call(torch.index_select, x, b.rank(x) - 1, b.call(torch.reshape, indices, [-1]))


def feature_vectorizer(b: Builder, op: Op) -> Result:
    """FeatureVectorizer: the inputs side by side, as float32."""
    return b.call(torch.cat, [_float(b, operand(op, i)) for i in range(len(op.inputs))], 1)


def linear_classifier(b: Builder, op: Op) -> Result:
    """LinearClassifier: labels (N,) and scores (N, classes); one row of coefficients serves two classes."""
    x = _float(b, operand(op, 0))
    features = b.shape(x)[1]
    weight = torch.tensor(op.get("coefficients"), dtype=torch.float32).reshape(-1, features)
    bias = torch.tensor(op.get("intercepts") or [0.0] * len(weight), dtype=torch.float32)
    scores = linear(b, layer_name(op), x, weight, bias)
    labels = op.get("classlabels_ints") or op.get("classlabels_strings") or []
    if len(weight) == 1 and len(labels) == 2:
        logistic = op.get("post_transform", "NONE") == "LOGISTIC"
        # The logistic of -x is 1 - p; without it the other score is 1 - x itself.
        other = b.call(torch.neg, scores) if logistic else b.call(torch.sub, 1.0, scores)
        scores = b.call(torch.cat, [other, scores], 1)
    scores = post_transformed(b, op, scores)
    return label_of(b, op, scores), scores


def linear_regressor(b: Builder, op: Op) -> Result:
    """LinearRegressor: (N, targets)."""
    x = _float(b, operand(op, 0))
    weight = torch.tensor(op.get("coefficients"), dtype=torch.float32).reshape(op.get("targets", 1), -1)
    bias = op.get("intercepts")
    scores = linear(b, layer_name(op), x, weight, None if bias is None else torch.tensor(bias, dtype=torch.float32))
    return post_transformed(b, op, scores)


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "OneHotEncoder": one_hot_encoder,
    "LabelEncoder": label_encoder,
    "Imputer": imputer,
    "Scaler": scaler,
    "Normalizer": normalizer,
    "Binarizer": binarizer,
    "ArrayFeatureExtractor": array_feature_extractor,
    "FeatureVectorizer": feature_vectorizer,
    "LinearClassifier": linear_classifier,
    "LinearRegressor": linear_regressor,
}

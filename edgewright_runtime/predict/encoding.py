"""From raw table rows or arrays to the model's own input tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgewright_runtime.bundle.integer_range import first_outside
from edgewright_runtime.bundle.manifest import Preprocessing, TensorSpec
from edgewright_runtime.errors import InputRejectedError
from edgewright_runtime.predict.cells import table_features

__all__ = ["RawRows", "as_json", "dequantize", "encode", "needed", "quantize"]

RawRows = Sequence[Mapping[str, Any]]


def encode(
    raw: Mapping[str, Any] | RawRows | np.ndarray, inputs: Sequence[TensorSpec], preprocessing: Preprocessing
) -> dict[str, np.ndarray]:
    """The model's input tensors, (N, ...) each, in the stored dtype.

    ``raw`` is one table row or several (tables), else one array (N, ...) or arrays by input name; an array of a single
    row may leave out the batch axis.

    Raises:
        InputRejectedError: a wrong name, shape or type, or a value that is not finite or that the tensor cannot hold.
    """
    if preprocessing.columns:
        rows = [raw] if isinstance(raw, Mapping) else raw
        if isinstance(rows, (str, bytes)) or not isinstance(rows, Sequence):  # an array of numbers is none either
            raise InputRejectedError("this model takes table rows: mappings of column name to value")
        return {inputs[0].name: quantize(table_features(rows, preprocessing), inputs[0])}
    arrays = raw if isinstance(raw, Mapping) else {inputs[0].name: raw}
    if set(arrays) != {spec.name for spec in inputs}:
        raise InputRejectedError(f"the model's inputs are {[s.name for s in inputs]}, given were {list(arrays)}")
    return {spec.name: _tensor(arrays[spec.name], spec, preprocessing) for spec in inputs}


def as_json(raw: Any) -> Any:
    """A raw input as JSON holds it; a missing number (NaN) is null there, and read as missing again.

    What JSON has no type for is its text, as `encode` reads a category.
    """
    if isinstance(raw, np.ndarray):
        return as_json(raw.tolist())
    if isinstance(raw, np.generic):
        return as_json(raw.item())
    if isinstance(raw, Mapping):
        return {str(key): as_json(value) for key, value in raw.items()}
    if isinstance(raw, (list, tuple)):
        return [as_json(value) for value in raw]
    if isinstance(raw, float) and not math.isfinite(raw):
        return None
    return raw if raw is None or isinstance(raw, (bool, int, float, str)) else str(raw)


def needed(raw: Any, preprocessing: Preprocessing) -> Any:
    """A raw input without the columns that the model does not use: those are nobody's business."""
    if not preprocessing.columns:
        return raw
    if isinstance(raw, Mapping):
        return {column.name: raw[column.name] for column in preprocessing.columns if column.name in raw}
    return [needed(row, preprocessing) for row in raw]


def quantize(real: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Real values in the tensor's stored dtype: rounded to its scale and saturated where it is an integer."""
    if spec.scale is None or spec.zero_point is None:
        return np.ascontiguousarray(real, dtype=spec.dtype)
    limits = np.iinfo(spec.dtype)
    # Half to even, as ONNX's QuantizeLinear.
    nearest = np.rint(real / spec.scale)
    # In float64, which holds the limits of 32 bits: in float32 the upper one of int32 is beyond it, and wraps around.
    stored = nearest.astype(np.float64) + spec.zero_point
    return np.asarray(np.clip(stored, limits.min, limits.max), dtype=spec.dtype)


def dequantize(stored: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Stored values as real ones, float32 where they were quantized."""
    if spec.scale is None or spec.zero_point is None:
        return stored
    # float32 before the subtraction: in int8 it would wrap.
    return np.asarray((stored.astype(np.float32) - spec.zero_point) * np.float32(spec.scale))


def _tensor(raw: Any, spec: TensorSpec, preprocessing: Preprocessing) -> np.ndarray:
    try:
        array = np.asarray(raw)
    except ValueError as e:  # lists of unequal lengths
        raise InputRejectedError(f"input '{spec.name}' is not an array of numbers: {str(e)[:200]}") from e
    if array.dtype.kind not in "fiub":
        raise InputRejectedError(f"input '{spec.name}' needs numbers, given was {array.dtype}")
    if spec.dtype.startswith("float") or spec.scale is not None:
        array = _scaled(array, spec, preprocessing)
    elif array.dtype.kind == "f":
        raise InputRejectedError(f"input '{spec.name}' is {spec.dtype}, given was {array.dtype}")
    elif array.dtype != spec.dtype:
        _check_range(array, spec)
    return quantize(_shaped(array, spec), spec)


def _scaled(array: np.ndarray, spec: TensorSpec, preprocessing: Preprocessing) -> np.ndarray:
    # A float16 input is scaled in float32: a raw 70,000 would be infinite before it is scaled down.
    wide = np.dtype(np.float64 if spec.dtype == "float64" else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        real: np.ndarray = (array.astype(wide) - wide.type(preprocessing.mean)) * wide.type(preprocessing.scale)
    narrow = spec.dtype if spec.scale is None else "float32"
    # Judged after scaling: what is finite as it was given may not be in the tensor's own type.
    if not np.isfinite(real).all() or (narrow == "float16" and np.abs(real).max(initial=0) > np.finfo(narrow).max):
        raise InputRejectedError(f"input '{spec.name}' holds NaN, infinity or a value beyond {narrow}")
    return real


def _check_range(array: np.ndarray, spec: TensorSpec) -> None:
    """Refuse integers that a cast to the tensor's own type would wrap around."""
    outside = first_outside(array, np.dtype(spec.dtype))
    if outside:
        raise InputRejectedError(f"input '{spec.name}': {outside}")


def _shaped(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The array as (N, *row shape): axes of 1 may be left out, rows may be flat, a single row needs no batch axis."""
    row = spec.shape[1:]
    if _fits(array.shape[1:], row) and array.ndim:
        return array.reshape((len(array), *row))
    if _fits(array.shape, row):
        return array.reshape((1, *row))
    raise InputRejectedError(f"input '{spec.name}' has rows of shape {list(row)}, given was {list(array.shape)}")


def _fits(given: tuple[int, ...], row: tuple[int, ...]) -> bool:
    # Equal element counts alone would let (8, 8, 3) pass for (3, 8, 8) and scramble the image.
    return [d for d in given if d != 1] == [d for d in row if d != 1] or given == (math.prod(row),)

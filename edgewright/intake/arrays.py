"""Data in ``.npz`` files: read, checked against the model's inputs, normalized. No ML framework is imported here."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake.splits import Rows, split_rows, thinned
from edgewright_runtime.manifest import TensorSpec

__all__ = ["Samples", "read_arrays"]


@dataclass(frozen=True)
class Samples:
    """Rows as the model's inputs, the true answers, and which row serves what.

    ``inputs`` maps an input's name to (N, ...) in its dtype; ``y`` (N,).
    """

    inputs: Mapping[str, NDArray[Any]]
    y: NDArray[Any]
    rows: Rows
    notes: tuple[str, ...] = ()


def read_arrays(spec: DataSpec, inputs: Sequence[TensorSpec], *, accepts_nan: bool = False) -> Samples:
    """The arrays of a file as the model's inputs.

    Raises:
        InputError: unreadable, an array is missing, lengths or shapes do not fit, NaN.
    """
    with _opened(spec.path) as file:
        names = set(file.files)
        explicit = any(n == "x_test" or n.startswith("x_test.") for n in names)
        target = spec.target or "y"
        if not explicit:
            x, y = _pool(file, spec.path, "x", target, inputs)
            parts = [(x, y)]
        else:
            parts = [_pool(file, spec.path, f"x_{s}", f"{target}_{s}", inputs) for s in ("train", "test")]
    if spec.test_path is not None:
        if explicit:
            raise InputError(f"{spec.path}: holds x_test itself; leave test_path out")
        with _opened(spec.test_path) as file:
            parts.append(_pool(file, spec.test_path, "x", target, inputs))
    raw = {i.name: np.concatenate([x[i.name] for x, _ in parts]) for i in inputs}
    y = np.concatenate([y for _, y in parts])
    if y.dtype.kind == "f" and np.isnan(y).any():
        raise InputError(f"{spec.path}: the target '{target}' holds NaN in row {int(np.flatnonzero(np.isnan(y))[0])}")
    notes: list[str] = []
    encoded = {i.name: _fitted(raw[i.name], i, spec, notes, accepts_nan=accepts_nan) for i in inputs}
    return Samples(encoded, y, _rows(spec, y, [len(part) for _, part in parts]), tuple(dict.fromkeys(notes)))


def _rows(spec: DataSpec, y: NDArray[Any], lengths: list[int]) -> Rows:
    classes = y.dtype.kind in "iubOUS"
    if len(lengths) == 1:
        training, test = split_rows(y, test_fraction=spec.test_fraction, seed=spec.seed, classes=classes)
    else:
        training, test = np.arange(lengths[0]), np.arange(lengths[0], sum(lengths))
    return Rows(*thinned(training, y, seed=spec.seed, classes=classes), test)


def _opened(path: Path) -> Any:
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        reason = "no such file" if isinstance(e, FileNotFoundError) else str(e).splitlines()[0]
        raise InputError(f"{path}: cannot be read as arrays (.npz): {reason}") from e
    if not hasattr(file, "files"):
        raise InputError(f"{path}: one bare array; expected a .npz with x_train, y_train, x_test, y_test or x, y")
    return file


def _pool(
    file: Any, path: Path, x_name: str, y_name: str, inputs: Sequence[TensorSpec]
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    x = {}
    for tensor in inputs:
        name = f"{x_name}.{tensor.name}" if f"{x_name}.{tensor.name}" in file.files or len(inputs) > 1 else x_name
        x[tensor.name] = _array(file, path, name)
    y = _array(file, path, y_name)
    y = y.reshape(len(y)) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        raise InputError(f"{path}: '{y_name}' has shape {y.shape}; expected one answer for each row")
    for name, array in x.items():
        if len(array) != len(y):
            raise InputError(f"{path}: {len(array)} rows of '{x_name}' ({name}) but {len(y)} of '{y_name}'")
    return x, y


def _array(file: Any, path: Path, name: str) -> NDArray[Any]:
    if name not in file.files:
        raise InputError(f"{path}: no array '{name}'; it holds {', '.join(sorted(file.files)) or 'nothing'}")
    try:
        array: NDArray[Any] = file[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(f"{path}: array '{name}' cannot be read: {str(e).splitlines()[0]}") from e
    if array.ndim == 0 or (array.dtype.kind not in "fiub" and not (name.startswith("y") and array.dtype.kind in "US")):
        raise InputError(f"{path}: array '{name}' has shape {array.shape} and dtype {array.dtype}; expected numbers")
    return array


def _fitted(raw: NDArray[Any], tensor: TensorSpec, spec: DataSpec, notes: list[str], *, accepts_nan: bool) -> Any:
    """``(raw - mean) * scale`` in the input's shape and dtype."""
    wanted = tensor.shape[1:]
    if raw.shape[1:] != wanted:
        without = tuple(s for s in wanted if s != 1)
        if tuple(s for s in raw.shape[1:] if s != 1) != without:
            raise InputError(
                f"{spec.path}: rows of shape {raw.shape[1:]} do not fit the model's input '{tensor.name}' "
                f"of shape {wanted}"
            )
        notes.append(f"rows of shape {raw.shape[1:]} were reshaped to {wanted} for input '{tensor.name}'")
    if raw.dtype.kind == "f" and not accepts_nan and np.isnan(raw).any():
        row = int(np.flatnonzero(np.isnan(raw).reshape(len(raw), -1).any(axis=1))[0])
        raise InputError(f"{spec.path}: NaN in row {row} of the data for input '{tensor.name}'")
    if raw.dtype.kind == "u" and tensor.dtype.startswith("float") and spec.scale == 1.0:
        notes.append(f"integers 0-{int(raw.max(initial=0))} go into the float input '{tensor.name}' unscaled (scale 1)")
    shaped = raw.reshape(len(raw), *wanted)
    if spec.scale != 1.0 or spec.mean != 0.0:
        # float32 throughout, as on the device.
        shaped = (shaped.astype(np.float32) - np.float32(spec.mean)) * np.float32(spec.scale)
    return _cast(shaped, tensor, spec.path)


def _cast(rows: NDArray[Any], tensor: TensorSpec, path: Path) -> NDArray[Any]:
    """The rows in the input's dtype; whole numbers are neither cut nor wrapped round to become so."""
    with np.errstate(invalid="ignore"):  # what is no number is found below
        cast = rows.astype(tensor.dtype)
    if cast.dtype.kind not in "iu" or rows.dtype == cast.dtype:
        return cast
    lost = np.argwhere(cast != rows)
    if len(lost):
        where = tuple(int(i) for i in lost[0])
        raise InputError(
            f"{path}: row {where[0]} of the data for input '{tensor.name}' holds {rows[where]:g}, which {tensor.dtype} "
            "cannot hold: give whole numbers in its range, or another scale and mean"
        )
    return cast

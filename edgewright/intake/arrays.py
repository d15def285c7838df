"""Data in ``.npz`` files: read, checked against the model's inputs, normalized. No ML framework is imported here."""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.failures import one_line
from edgewright.intake.answers import Answers, is_unjudged
from edgewright.intake.splits import Splits, split_rows, thinned
from edgewright.intake.tensor_names import data_names
from edgewright_runtime.bundle.manifest import TensorSpec
from edgewright_runtime.npy import MAGIC, Npz

__all__ = ["Samples", "open_arrays", "read_arrays", "row_shapes", "rows_of", "stored_array"]


@dataclass(frozen=True)
class _Part:
    """Arrays of one file that belong together, under the name ``x``, ``x_train`` or ``x_test``."""

    path: Path
    name: str
    x: Mapping[str, NDArray[Any]]
    y: NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Rows as the model's inputs, the true answers, and which row serves what.

    ``inputs`` maps an input's name to (N, ...) in its dtype; ``y`` (N,) are positions in ``labels``, or values, and are
    compared with output number ``decides``.
    """

    inputs: Mapping[str, NDArray[Any]]
    y: NDArray[Any]
    rows: Splits
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    decides: int = 0
    known: bool = True


def read_arrays(
    spec: DataSpec,
    inputs: Sequence[TensorSpec],
    meaning: Callable[[NDArray[Any]], Answers],
    *,
    accepts_nan: bool = False,
) -> Samples:
    """The arrays of a file as the model's inputs; ``meaning`` says what the answers are to the model.

    Raises:
        InputError: unreadable, an array is missing, lengths or shapes do not fit, NaN, answers that do not fit, a scale
            that no input takes.
    """
    _refuse_idle_scale(spec, inputs)
    with open_arrays(spec.path) as file:
        names = set(file.files)
        # `x_test`, or `x_test.NAME` for each of several inputs.
        explicit = any(n == "x_test" or n.startswith("x_test.") for n in names)
        target, answered, own = spec.target or "y", spec.has_answers, is_unjudged(spec)
        if not explicit:
            parts = [_pool(file, spec.path, "x", target if answered else None, inputs, of_any_shape=own)]
        else:
            parts = [
                _pool(file, spec.path, f"x_{s}", f"{target}_{s}" if answered else None, inputs, of_any_shape=own)
                for s in ("train", "test")
            ]
    if spec.test_path is not None:
        if explicit:
            raise InputError(f"{spec.path}: holds x_test itself; leave test_path out")
        with open_arrays(spec.test_path) as file:
            parts.append(_pool(file, spec.test_path, "x", target if answered else None, inputs, of_any_shape=own))
    y = _joined([part.y for part in parts], spec)
    if y.dtype.kind == "f" and np.isnan(y).any():
        raise InputError(f"{spec.path}: the target '{target}' holds NaN in row {int(np.flatnonzero(np.isnan(y))[0])}")
    # Of training and test rows together: a class may occur in one of them alone.
    answers = meaning(y)
    notes: list[str] = []
    # Each part by itself: joined before, signed and unsigned numbers would become float64 and lose digits.
    encoded = {
        i.name: np.concatenate([_fitted(part, i, spec, notes, accepts_nan=accepts_nan) for part in parts])
        for i in inputs
    }
    rows = rows_of(spec, answers, [len(part.y) for part in parts])
    return Samples(
        encoded,
        answers.y,
        rows,
        (*dict.fromkeys(notes), *answers.notes),
        answers.labels,
        answers.decides,
        answers.known,
    )


def _joined(parts: Sequence[NDArray[Any]], spec: DataSpec) -> NDArray[Any]:
    shapes = list(dict.fromkeys(part.shape[1:] for part in parts))
    if len(shapes) > 1:
        raise InputError(f"{spec.path}: the answers of the training and of the test rows have shapes {shapes}")
    return np.concatenate(parts)


def rows_of(spec: DataSpec, answers: Answers, lengths: Sequence[int]) -> Splits:
    """Which row serves what; ``lengths`` are those of the file and, where there is one, of the test rows' own."""
    y, classes = answers.y, answers.labels is not None
    if len(lengths) == 1:
        training, test = split_rows(y, test_fraction=spec.test_fraction, seed=spec.seed, classes=classes)
    else:
        training, test = np.arange(lengths[0]), np.arange(lengths[0], sum(lengths))
    return Splits(*thinned(training, y, seed=spec.seed, classes=classes), test)


@contextmanager
def open_arrays(path: Path) -> Iterator[Npz]:
    """A ``.npz`` file.

    Raises:
        InputError: missing, or not one.
    """
    try:
        file = Npz(path)
    except (ValueError, OSError, zipfile.BadZipFile, NotImplementedError) as e:
        if isinstance(e, zipfile.BadZipFile) and _is_bare(path):
            expected = "one bare array; expected a .npz with x_train, y_train, x_test, y_test or x, y"
            raise InputError(f"{path}: {expected}") from e
        missing = isinstance(e, FileNotFoundError)
        reason = "no such file" if missing else (isinstance(e, OSError) and e.strerror) or one_line(e)
        raise InputError(f"{path}: cannot be read as arrays (.npz): {reason}") from e
    with file:
        yield file


def _is_bare(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def stored_array(file: Npz, path: Path, name: str) -> NDArray[Any]:
    """An array that the file names.

    Raises:
        InputError: damaged.
    """
    try:
        return file[name]
    except Exception as e:  # what unpacks it raises errors of many kinds
        raise InputError(f"{path}: array '{name}' cannot be read: {one_line(e)}") from e


def row_shapes(spec: DataSpec, names: Sequence[str]) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape of one row and dtype of each input, as the data has them: for models that do not say.

    Raises:
        InputError: unreadable, or an input has no array.
    """
    with open_arrays(spec.path) as file:
        side = "x" if not any(n == "x_test" or n.startswith("x_test.") for n in file.files) else "x_train"
        # A single input may also stand as plain `x`.
        wanted = [f"{side}.{n}" if len(names) > 1 or f"{side}.{n}" in file.files else side for n in names]
        arrays = [_array(file, spec.path, name) for name in wanted]
    return [(array.shape[1:], array.dtype) for array in arrays]


def _pool(
    file: Npz, path: Path, x_name: str, y_name: str | None, inputs: Sequence[TensorSpec], *, of_any_shape: bool
) -> _Part:
    x, counts = {}, {}
    for tensor in inputs:
        own = [key for name in data_names(tensor.name) if (key := f"{x_name}.{name}") in file.files]
        own += [f"{x_name}.{data_names(tensor.name)[-1]}" if len(inputs) > 1 else x_name]
        x[tensor.name] = _array(file, path, own[0])
        counts[own[0]] = len(x[tensor.name])
    _refuse_other_counts(path, counts)
    if y_name is None:
        # No answers to read (`task: none`): zeros in their place keep the rows countable.
        return _Part(path, x_name, x, np.zeros(len(next(iter(x.values())))))
    if y_name not in file.files:
        held = ", ".join(sorted(file.files)) or "nothing"
        raise InputError(
            f"{path}: no array '{y_name}'; it holds {held}. In a data file, name the answers with target, or write "
            "task: none where there are none"
        )
    y = _array(file, path, y_name, kinds="fiubUS")
    # A column, (N, 1), is one answer a row as well.
    y = y.reshape(len(y)) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 and not of_any_shape:
        raise InputError(
            f"{path}: '{y_name}' has shape {y.shape}; expected one answer for each row. In the data file, a metric of "
            "your own takes answers of any shape (metric: package.module:function), and task: none needs no answers"
        )
    _refuse_other_counts(path, {**counts, y_name: len(y)})
    return _Part(path, x_name, x, y)


def _refuse_other_counts(path: Path, counts: Mapping[str, int]) -> None:
    """Row n of each array belongs to row n of all others: where one has more, the pairs would be wrong."""
    (first, rows), *others = counts.items()
    for name, count in others:
        if count != rows:
            raise InputError(
                f"{path}: {rows} rows of '{first}' but {count} of '{name}'; each row needs its values in all of them"
            )


def _array(file: Npz, path: Path, name: str, kinds: str = "fiub") -> NDArray[Any]:
    if name not in file.files:
        raise InputError(f"{path}: no array '{name}'; it holds {', '.join(sorted(file.files)) or 'nothing'}")
    array = stored_array(file, path, name)
    if array.ndim == 0 or array.dtype.kind not in kinds:
        raise InputError(f"{path}: array '{name}' has shape {array.shape} and dtype {array.dtype}; expected numbers")
    if len(array) == 0:
        raise InputError(f"{path}: array '{name}' has no rows; give at least 10 to test and to calibrate with")
    return array


def _fitted(part: _Part, tensor: TensorSpec, spec: DataSpec, notes: list[str], *, accepts_nan: bool) -> Any:
    """The rows in the input's shape and dtype, ``(raw - mean) * scale`` where that is real."""
    raw, wanted = part.x[tensor.name], tensor.shape[1:]
    is_given = any(name in spec.shapes for name in data_names(tensor.name))
    if is_given and raw.shape[1:] != wanted and _reaches(raw.shape[1:], wanted):
        notes.append(f"rows of shape {raw.shape[1:]} were cut to {wanted} for input '{tensor.name}', as --shape asks")
        raw = raw[(slice(None), *(slice(size) for size in wanted))]
    if raw.shape[1:] != wanted:
        # Axes of size 1 may be added or dropped, (28, 28) for (28, 28, 1); any other reshape would mix values.
        without = tuple(s for s in wanted if s != 1)
        if tuple(s for s in raw.shape[1:] if s != 1) != without:
            raise InputError(
                f"{part.path}: rows of shape {raw.shape[1:]} do not fit the model's input '{tensor.name}' "
                f"of shape {wanted}"
            )
        notes.append(f"rows of shape {raw.shape[1:]} were reshaped to {wanted} for input '{tensor.name}'")
    if raw.dtype.kind == "f" and not accepts_nan and np.isnan(raw).any():
        row = int(np.flatnonzero(np.isnan(raw).reshape(len(raw), -1).any(axis=1))[0])
        raise InputError(f"{part.path}: NaN in row {row} of '{part.name}' for input '{tensor.name}'")
    # Unsigned integers are pixels, as a rule, and many networks want them scaled.
    if raw.dtype.kind == "u" and tensor.dtype.startswith("float") and spec.scale == 1.0:
        notes.append(f"integers 0-{int(raw.max(initial=0))} go into the float input '{tensor.name}' unscaled (scale 1)")
    rows = raw.reshape(len(raw), *wanted)
    cast, lost = _cast(rows, tensor, spec)
    if lost:
        has_scale = _is_real(tensor) and _is_scaled(spec)
        scaled = f" with scale {spec.scale:g} and mean {spec.mean:g}" if has_scale else ""
        allowed = {"f": "finite numbers", "b": "0 and 1"}.get(cast.dtype.kind, "whole numbers")
        other = ", or another scale and mean" if _is_real(tensor) else ""
        raise InputError(
            f"{part.path}: row {lost[0]} of '{part.name}' for input '{tensor.name}' holds {rows[lost]:g}, which "
            f"{tensor.dtype} cannot hold{scaled}: give {allowed} in its range{other}"
        )
    return cast


def _reaches(given: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(given) == len(wanted) and all(a >= b for a, b in zip(given, wanted, strict=True))


def _cast(rows: NDArray[Any], tensor: TensorSpec, spec: DataSpec) -> tuple[NDArray[Any], tuple[int, ...]]:
    """``(rows - mean) * scale`` in the input's dtype, and the first place that it cannot hold; () where there is none.

    No value is cut, wrapped round or made infinite. Whole numbers, such as token ids, are not scaled.
    """
    scaled = rows
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found below
        if _is_real(tensor) and _is_scaled(spec):
            # As on the device: float32, but for an input of float64.
            wide = np.dtype(np.float64 if tensor.dtype == "float64" else np.float32).type
            scaled = (rows.astype(wide) - wide(spec.mean)) * wide(spec.scale)
        cast = scaled.astype(tensor.dtype)
    # By the round trip: a fraction, a value out of range and NaN all come back as another number.
    lost = np.isfinite(rows) & ~np.isfinite(cast) if cast.dtype.kind == "f" else cast != scaled
    return cast, tuple(int(i) for i in np.argwhere(lost)[0]) if lost.any() else ()


def _refuse_idle_scale(spec: DataSpec, inputs: Sequence[TensorSpec]) -> None:
    if _is_scaled(spec) and not any(map(_is_real, inputs)):
        kinds = ", ".join(f"'{tensor.name}' ({tensor.dtype})" for tensor in inputs)
        raise InputError(
            f"{spec.path}: scale {spec.scale:g} and mean {spec.mean:g} are for real inputs, and the model has {kinds}: "
            "give whole numbers as the model takes them, and leave scale and mean out"
        )


def _is_real(tensor: TensorSpec) -> bool:
    return tensor.dtype.startswith("float")


def _is_scaled(spec: DataSpec) -> bool:
    return spec.scale != 1.0 or spec.mean != 0.0

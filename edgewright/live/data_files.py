"""Rows in memory as a data file: arrays as ``.npz``, frames as ``.parquet``, and the ``.yaml`` that describes them."""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic_core import PydanticSerializationError, to_jsonable_python

from edgewright.data import NAMED_METRICS
from edgewright.errors import InputError
from edgewright.failures import one_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DataFile", "write_data"]

_ALLOWED = (
    "a path; rows; (rows, answers); (training rows, answers, test rows, answers); a DataFrame with target=; a PyTorch "
    "DataLoader or Dataset. Rows are an array, a tensor, a DataFrame, or a dict of arrays by the model's input names"
)
_FRAME, _ARRAYS, _DESCRIPTION = "data.parquet", "data.npz", "data.yaml"
_OWN_TARGET = "target"  # the column for answers that come without a name

Arrays = dict[str, Any]


class DataFile(NamedTuple):
    """The file, and a few rows of each input in the model's order: what a module is exported with. None: not known."""

    path: Path
    examples: Arrays | None


def write_data(data: Any, folder: Path, **options: Any) -> DataFile:
    """Write rows into ``folder``; ``options`` are keys of a data file (`edgewright.data.DataSpec`).

    Without answers, and without a metric, the task is none.

    Raises:
        InputError: no data that is known here, or lengths that differ.
    """
    # None is a keyword that was left out; in the file, null would be a value.
    options = {name: value for name, value in options.items() if value is not None}
    if callable(options.get("metric")):
        options |= _metric_keys(options["metric"])
    if isinstance(data, (str, os.PathLike)):
        return _of_path(Path(data), folder, options)
    splits = _splits(data)
    if _is_frame(splits[0].rows):
        return _written_frames(splits, folder, options)
    return _written_arrays(splits, folder, options)


class _Split(NamedTuple):
    rows: Any
    answers: Any


def _of_path(path: Path, folder: Path, options: Mapping[str, Any]) -> DataFile:
    if path.suffix in {".yaml", ".yml"} and options:
        raise InputError(f"{path} describes the data already; write {', '.join(sorted(options))} into it")
    if path.suffix in {".yaml", ".yml"} or not options:
        return DataFile(path, None)
    return DataFile(_described(folder, {**options, "path": str(path.absolute())}), None)


def _splits(data: Any) -> list[_Split]:
    """One, or training rows and test rows."""
    if _is_torch_data(data):
        data = _collected(data)
    if not isinstance(data, (tuple, list)):
        return [_Split(data, None)]
    parts = list(data)
    if len(parts) == 2 and all(isinstance(part, (tuple, list)) and len(part) == 2 for part in parts):
        parts = [*parts[0], *parts[1]]  # Keras' own data sets: ((rows, answers), (rows, answers))
    if len(parts) not in {2, 4}:
        raise InputError(f"data: found a {type(data).__name__} of {len(parts)}; allowed: {_ALLOWED}")
    return [_Split(*parts[place : place + 2]) for place in range(0, len(parts), 2)]


def _is_torch_data(data: Any) -> bool:
    return any(kind.__module__.startswith("torch.utils.data") for kind in type(data).__mro__)


def _collected(data: Any) -> tuple[Any, Any]:
    """All rows and answers of a loader, or of a data set that has one row at a place."""
    batches: Iterable[Any] = data
    # A Dataset; a DataLoader, which has its own batches, is read as it is.
    if not hasattr(data, "batch_size"):
        from torch.utils.data import DataLoader

        batches = DataLoader(data, batch_size=256)
    rows, answers = list[Any](), list[Any]()
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InputError(f"data: a {type(data).__name__} of {type(batch).__name__}; expected (rows, answers)")
        rows.append(batch[0])
        answers.append(batch[1])
    if not rows:
        raise InputError(f"data: a {type(data).__name__} without rows")
    return _joined(rows), _joined(answers)


def _joined(batches: Sequence[Any]) -> Any:
    # Inputs by name, as a Dataset for a model of several inputs gives them.
    if isinstance(batches[0], Mapping):
        if any(not isinstance(batch, Mapping) or set(batch) != set(batches[0]) for batch in batches):
            raise InputError(f"data: batches with different inputs; the first has {', '.join(map(str, batches[0]))}")
        return {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
    arrays = [_array(batch) for batch in batches]
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = ", ".join(sorted({str(("N", *array.shape[1:])) for array in arrays}))
        raise InputError(f"data: batches of rows of different shapes: {shapes}; give them one shape")
    return np.concatenate(arrays)


def _is_frame(rows: Any) -> bool:
    return type(rows).__name__ == "DataFrame" and hasattr(rows, "to_parquet")


def _array(rows: Any) -> NDArray[Any]:
    """An array, a tensor of PyTorch or TensorFlow, a Series or a list, as an array."""
    # A tensor that needs gradients, or lies on another device, has no array.
    given, allowed = rows, f"allowed: {_ALLOWED}"
    try:
        if hasattr(rows, "detach"):
            rows = rows.detach().cpu()
            rows = rows.to_dense() if rows.is_sparse else rows
            # NumPy has no bfloat16; every one of its numbers is a float32.
            rows = rows.float() if str(rows.dtype) == "torch.bfloat16" else rows
        array = np.asarray(rows)
        if array.dtype == object:  # of texts, as pandas has them
            array = np.array(array.tolist())
    except Exception as e:  # whatever the conversion of somebody's own type raises
        raise InputError(f"data: a {type(given).__name__} that is not an array: {one_line(e)}; {allowed}") from e
    if array.dtype.kind not in "fiubUS" or array.ndim == 0:
        raise InputError(f"data: found {type(given).__name__} of dtype {array.dtype}; {allowed}")
    return array


def _written_arrays(splits: Sequence[_Split], folder: Path, options: dict[str, Any]) -> DataFile:
    names = ["x"] if len(splits) == 1 else ["x_train", "x_test"]
    arrays: Arrays = {}
    for split, name in zip(splits, names, strict=True):
        named = {f"{name}.{key}": rows for key, rows in split.rows.items()} if isinstance(split.rows, Mapping) else {}
        of_split = {key: _array(rows) for key, rows in (named or {name: split.rows}).items()}
        if split.answers is not None:
            # x, x_train and x_test have their answers in y, y_train and y_test: see `edgewright.data.DataSpec`.
            of_split[name.replace("x", "y", 1)] = _array(split.answers)
        if len({len(array) for array in of_split.values()}) > 1:
            counts = ", ".join(f"{key} {len(array)}" for key, array in of_split.items())
            raise InputError(f"data: as many answers as rows are needed; given were {counts}")
        arrays |= of_split
    if splits[0].answers is None:
        options = _without_answers(options)
    np.savez(folder / _ARRAYS, **arrays)
    # Two: torch.export takes a size of 1 for a constant, and the batch would not be free.
    examples = {key: array[:2] for key, array in arrays.items() if key.partition(".")[0] == names[0]}
    return DataFile(_described(folder, {**options, "path": _ARRAYS}), examples)


def _written_frames(splits: Sequence[_Split], folder: Path, options: dict[str, Any]) -> DataFile:
    target = options.get("target")
    for number, split in enumerate(splits):
        frame = _table(split.rows)
        if split.answers is not None:
            name, answers = _column(split.answers)
            target = target or name
            if target in frame:
                raise InputError(f"data: the frame has a column '{target}', too; name the answers' otherwise: target=")
            if len(frame) != len(answers):
                raise InputError(f"data: {len(frame)} rows but {len(answers)} answers")
            frame[target] = answers
        try:
            # Without the index: it would come back as one more column, and be taken for a feature.
            frame.to_parquet(folder / (_FRAME if number == 0 else f"test_{_FRAME}"), index=False)
        except OSError:  # of the disk
            raise
        except Exception as e:  # of its writer, as for numbers and texts in one column
            raise InputError(f"data: the frame cannot be written: {one_line(e)}; give each column one type") from e
    keys = {**options, "path": _FRAME, **({"test_path": f"test_{_FRAME}"} if len(splits) == 2 else {})}
    if target is None:
        keys = _without_answers(keys)
    else:
        keys["target"] = target
    return DataFile(_described(folder, keys), None)


def _table(rows: Any) -> "pd.DataFrame":
    """A copy, whose columns have texts for names: the caller's frame keeps its own."""
    if not _is_frame(rows):
        raise InputError(f"data: the rows to train with are a DataFrame, those to test with a {type(rows).__name__}")
    frame: pd.DataFrame = rows.copy()
    if frame.columns.nlevels > 1:
        raise InputError(f"data: a frame whose columns have {frame.columns.nlevels} levels of names; one is allowed")
    # A frame made of an array has numbers as names; in the file, and in the manifest, columns are texts.
    frame.columns = frame.columns.astype(str)
    if not frame.columns.is_unique:
        twice = ", ".join(sorted(set(frame.columns[frame.columns.duplicated()])))
        raise InputError(f"data: a frame with several columns of one name: {twice}; each needs a name of its own")
    return frame


def _column(answers: Any) -> tuple[str, NDArray[Any]]:
    """The name and the values of the answers to a frame's rows."""
    if _is_frame(answers) and answers.shape[1] == 1:
        answers = answers.iloc[:, 0]
    values = _array(answers)
    if values.ndim > 1 and values.size != len(values):
        raise InputError(f"data: answers of shape {('N', *values.shape[1:])}; one column is allowed beside a frame")
    name = answers.name if type(answers).__name__ == "Series" else None
    return _OWN_TARGET if name is None else str(name), values.reshape(-1)


def _without_answers(options: dict[str, Any]) -> dict[str, Any]:
    named = NAMED_METRICS.get(options.get("metric", ""))
    if named is not None and named.task is not None:
        raise InputError(
            f"data: metric '{options['metric']}' needs answers: data=(rows, answers), or a frame with target="
        )
    if options.get("task") not in {None, "none"}:
        raise InputError(f"data: task '{options['task']}' needs answers: data=(rows, answers), or a frame with target=")
    return {**options, "task": "none"}


def _metric_keys(metric: Callable[..., Any]) -> dict[str, str]:
    """A function as the data file names it: a child process imports it from its file."""
    # What is made at run time, as by functools.partial, has no name of its own.
    module, name = str(getattr(metric, "__module__", "")), str(getattr(metric, "__qualname__", ""))
    imported = sys.modules.get(module)
    # Of the module, not of the function: a decorator's code lies elsewhere. An extension module has no source.
    file = Path(getattr(imported, "__file__", None) or "")
    is_there = inspect.isroutine(metric) and getattr(imported, name, None) is metric
    if module == "__main__" or file.suffix != ".py" or not is_there:
        shown = f"'{module}:{name}'" if name else f"a {type(metric).__name__}"
        raise InputError(
            f"metric: {shown} cannot be imported by another process; put a function into a module file: def NAME(…)"
        )
    # The folder from which the dotted name is imported: one up for each dot, and out of the package that it may be.
    levels = module.count(".") + (file.name == "__init__.py")
    return {"metric": f"{module}:{name}", "folder": str(file.absolute().parents[levels])}


def _described(folder: Path, keys: Mapping[str, Any]) -> Path:
    path = folder / _DESCRIPTION
    try:
        plain = to_jsonable_python(dict(keys), inf_nan_mode="constants", fallback=lambda value: value.tolist())
        path.write_text(yaml.safe_dump(plain, sort_keys=False))
    except (AttributeError, PydanticSerializationError, yaml.YAMLError) as e:
        raise InputError(f"data: an option is not plain text, a number, or a list of these: {one_line(e)}") from e
    return path

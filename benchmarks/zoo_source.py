"""The referee: a model of the zoo as its own framework runs it. Each function runs in a child process."""

import importlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo_cells import parity_of

__all__ = ["answer", "inputs_of", "model_file", "own_rounding", "save_answers", "split_rows"]

Arrays = dict[str, NDArray[Any]]
"""Rows of each input, or of each output by its number, in the model's order."""


def model_file(folder: Path) -> Path:
    """The one file in a model's folder that is the model.

    Raises:
        FileNotFoundError: there is none.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in {".pt2", ".keras", ".onnx", ".jit"}:
            return path
    raise FileNotFoundError(f"{folder}: no model file (.pt2, .keras, .onnx, .jit)")


def split_rows(data: Path, split: str) -> Arrays:
    """The rows of ``train`` or ``test`` by input, in the order of the model's inputs; one input bears no name: ''."""
    start = f"x_{split}"
    with np.load(data, allow_pickle=False) as held:
        return {name.removeprefix(start).removeprefix("."): held[name] for name in held.files if name.startswith(start)}


def inputs_of(rows: Arrays, names: list[str], dtypes: list[str]) -> Arrays:
    """The rows under the names and in the dtypes that a converted file declares, matched by name or else by place.

    An input that is a single number for all rows is part of the file, which does not declare it; one whose name is a
    reserved word (``state``) has an underscore after it there.
    """
    known = {**rows, **{f"{name}_": values for name, values in rows.items()}}
    if not set(names) <= set(known):
        known = dict(zip(names, rows.values(), strict=True))
    return {name: known[name].astype(dtype) for name, dtype in zip(names, dtypes, strict=True)}


def answer(path: Path, rows: Arrays) -> list[NDArray[Any]]:
    """Every output for all rows, in the model's order.

    Raises:
        ValueError: a kind of file that is not run here.
    """
    match path.suffix:
        case ".pt2":
            return _torch(path, rows)
        case ".keras":
            return _keras(path, rows)
        case ".onnx":
            return _onnx(path, rows)
        case _:
            raise ValueError(f"{path.name}: a model with a state inside has no answer to a row alone")


def save_answers(folder: str, path: str) -> int:
    """The answers to the test rows as a ``.npz`` with arrays 0, 1, …; how many outputs there are."""
    found = answer(model_file(Path(folder)), split_rows(Path(folder) / "data.npz", "test"))
    staged = Path(path).with_suffix(".part.npz")
    staged.parent.mkdir(parents=True, exist_ok=True)
    np.savez(staged, **{str(i): value for i, value in enumerate(found)})  # type: ignore[arg-type]
    staged.replace(path)
    return len(found)


def own_rounding(folder: str, answers: str) -> float | None:
    """How far the source's float32 answers to the test rows lie from its own in float64, of the worst output.

    None for a kind of source that has no float64 here, and where the two differ in more than rounding.
    """
    path, rows = model_file(Path(folder)), split_rows(Path(folder) / "data.npz", "test")
    match path.suffix:
        case ".pt2":
            exact = _torch(path, rows, wide=True)
        case ".keras":
            exact = _keras(path, rows, wide=True)
        case _:
            return None
    with np.load(answers, allow_pickle=False) as held:
        found = [parity_of(value, held[str(i)]).relative for i, value in enumerate(exact)]
    return None if None in found else max((r for r in found if r is not None), default=0.0)


def _torch(path: Path, rows: Arrays, *, wide: bool = False) -> list[NDArray[Any]]:
    import torch
    from torch.utils._pytree import tree_leaves

    if _calls_transformers(path):
        importlib.import_module("transformers.integrations.moe")  # it defines the operator
    module = torch.export.load(path).module()
    given = [torch.from_numpy(values) for values in rows.values()]
    if wide:
        module, given = module.double(), [x.double() if x.is_floating_point() else x for x in given]
    with torch.no_grad():
        return [value.numpy() for value in tree_leaves(module(*given))]


def _calls_transformers(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        texts = (archive.read(name) for name in archive.namelist() if name.endswith(".json"))
        return any(b"torch.ops.transformers." in text for text in texts)


def _keras(path: Path, rows: Arrays, *, wide: bool = False) -> list[NDArray[Any]]:
    import keras

    model = keras.saving.load_model(path)
    inputs = list(rows.values())
    if wide:
        model, inputs = _in_float64(model), [x.astype(np.float64) if x.dtype.kind == "f" else x for x in inputs]
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(value) for value in (found if isinstance(found, list | tuple) else [found])]


def _in_float64(model: Any) -> Any:
    """The same network, every layer and weight of it in float64."""
    import keras

    keras.config.set_floatx("float64")
    made = type(model).from_config(_widened(model.get_config()))
    made.set_weights(model.get_weights())
    return made


def _widened(value: Any) -> Any:
    """A configuration with its dtypes in float64."""
    if isinstance(value, dict):
        return {key: _widened(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_widened, value))
    return "float64" if value == "float32" else value


def _onnx(path: Path, rows: Arrays) -> list[NDArray[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    entries = session.get_inputs()
    given = []
    for place in range(len(next(iter(rows.values())))):
        pairs = zip(entries, rows.values(), strict=True)
        feed = {entry.name: _as_declared(column[place : place + 1], entry.shape) for entry, column in pairs}
        given.append([_row_first(value) for value in session.run(None, feed)])
    return [np.concatenate(values) for values in zip(*given, strict=True)]


def _as_declared(row: NDArray[Any], shape: list[int | str | None]) -> NDArray[Any]:
    """One row as an input wants it: a single number without axes, a state (layers, 1, …) with the row second."""
    if not shape:
        return row.reshape(())
    swapped = row.ndim > 1 and isinstance(shape[0], int) and shape[0] != 1 and row.shape[:2] == (1, shape[0])
    return row.swapaxes(0, 1) if swapped else row


def _row_first(value: NDArray[Any]) -> NDArray[Any]:
    """The answer to one row with that row's axis first."""
    return value.swapaxes(0, 1) if value.ndim > 2 and value.shape[0] != 1 and value.shape[1] == 1 else value

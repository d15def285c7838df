"""The referee: a model of the zoo as its own framework runs it. Each function runs in a child process."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["answer", "inputs_of", "model_file", "save_answers", "split_rows"]

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
    """The rows under the names and in the dtypes that a converted file declares, matched by name or else by place."""
    by_place = dict(zip(names, rows.values(), strict=True))
    return {name: rows.get(name, by_place[name]).astype(dtype) for name, dtype in zip(names, dtypes, strict=True)}


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


def _torch(path: Path, rows: Arrays) -> list[NDArray[Any]]:
    import torch
    from torch.utils._pytree import tree_leaves

    module = torch.export.load(path).module()
    with torch.no_grad():
        return [value.numpy() for value in tree_leaves(module(*map(torch.from_numpy, rows.values())))]


def _keras(path: Path, rows: Arrays) -> list[NDArray[Any]]:
    import keras

    model = keras.saving.load_model(path)
    inputs = list(rows.values())
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(value) for value in (found if isinstance(found, list | tuple) else [found])]


def _onnx(path: Path, rows: Arrays) -> list[NDArray[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    given = [
        session.run(None, {name: column[i : i + 1] for name, column in zip(names, rows.values(), strict=True)})
        for i in range(len(next(iter(rows.values()))))
    ]
    return [np.concatenate(values) for values in zip(*given, strict=True)]

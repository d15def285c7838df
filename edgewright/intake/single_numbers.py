"""Inputs that are a single number for all rows, such as a sampling rate: fixed at the value that the data gives them.

A device is given rows; a number that no row changes is part of the model. No ML framework is imported here.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake.arrays import open_arrays, stored_array

__all__ = ["fixed_note", "single_number"]


def single_number(data: DataSpec, name: str, dtype: str, model: Path) -> NDArray[Any]:
    """What the data says of a model's input that has no axis, as an array () of ``dtype``.

    It stands there as a number, or once for each row: ``x.<name>``, or ``x_train.<name>`` and ``x_test.<name>``.

    Raises:
        InputError: the data does not give it, gives it several values, or one that the type cannot hold.
    """
    given = np.concatenate([_given(path, name) for path in (data.path, data.test_path) if path is not None])
    wanted = f"{model}: input '{name}' is a single number, which is fixed at the data's value"
    if not len(given):
        raise InputError(
            f"{wanted}; {data.path} gives none: add an array 'x.{name}' (or x_train.{name}, x_test.{name}) with it"
        )
    values = np.unique(given)
    if len(values) > 1:
        said = ", ".join(f"{v:g}" for v in values[:3])
        raise InputError(
            f"{wanted}; {data.path} gives it {len(values)} values ({said}{', …' if len(values) > 3 else ''}): "
            "take the model in once for each value, with rows of that one"
        )
    cast = values[0].astype(dtype)
    if cast != values[0] and not np.issubdtype(cast.dtype, np.floating):
        raise InputError(f"{wanted}; {data.path} gives {values[0]:g}, which {dtype} cannot hold")
    return np.asarray(cast)


def fixed_note(name: str, value: NDArray[Any]) -> str:
    """For the notes of an imported model."""
    return f"input '{name}' is a single number and was fixed at {value.item()}, its value in all of the data"


def _given(path: Path, name: str) -> NDArray[Any]:
    with open_arrays(path) as file:
        keys = [f"{side}.{name}" for side in ("x", "x_train", "x_test")]
        held = [stored_array(file, path, key) for key in keys if key in file.files]
    for array in held:
        if array.dtype.kind not in "fiub" or array.size != (len(array) if array.ndim else 1):
            raise InputError(
                f"{path}: the array of input '{name}' has shape {array.shape} and dtype {array.dtype}; "
                "expected one number, or one for each row"
            )
    return np.concatenate([array.ravel() for array in held]) if held else np.zeros(0)

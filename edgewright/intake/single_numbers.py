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

__all__ = ["Number", "exported_number", "fixed_note", "given_kind", "is_given", "number_argument", "single_number"]

Number = int | float | bool
_DTYPES: dict[type[Number], str] = {bool: "bool", int: "int64", float: "float64"}


def single_number(data: DataSpec, name: str, dtype: str, model: Path) -> NDArray[Any]:
    """What the data says of a model's input that has no axis, as an array () of ``dtype``.

    It stands there as a number, or once for each row: ``x.<name>``, or ``x_train.<name>`` and ``x_test.<name>``.

    Raises:
        InputError: the data does not give it, gives it several values, or one that the type cannot hold.
    """
    # Training and test rows may lie in two files: both must agree.
    given = np.concatenate([_given(path, name) for path in (data.path, data.test_path) if path is not None])
    wanted = f"{model}: input '{name}' is a single number, which is fixed at the data's value"
    if not len(given):
        raise InputError(
            f"{wanted}; {data.path} gives none: add an array 'x.{name}' (or x_train.{name}, x_test.{name}) with it"
        )
    values = np.unique(given)
    if len(values) > 1:
        values_text = ", ".join(f"{v:g}" for v in values[:3])
        raise InputError(
            f"{wanted}; {data.path} gives it {len(values)} values ({values_text}{', …' if len(values) > 3 else ''}): "
            "take the model in once for each value, with rows of that one"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found below
        cast = values[0].astype(dtype)
    # A float may be rounded, but not made infinite.
    is_lost = np.isfinite(values[0]) and not np.isfinite(cast) if cast.dtype.kind == "f" else cast != values[0]
    if is_lost:
        raise InputError(f"{wanted}; {data.path} gives {values[0]:g}, which {dtype} cannot hold")
    return np.asarray(cast)


def number_argument(
    data: DataSpec, name: str, kind: type[Number], default: Number | None, model: Path
) -> tuple[Number, str]:
    """What an argument of a module's forward that is a Python number is fixed at, and a note that says so.

    The data's value where it has an array of that name, as in `single_number`, else the argument's ``default``.

    Raises:
        InputError: as `single_number`; there is neither.
    """
    if default is not None and not is_given(data, name):
        return default, f"input '{name}' is a single number and was fixed at {default}, its default"
    value = single_number(data, name, _DTYPES[kind], model)
    return kind(value.item()), fixed_note(name, value)


def exported_number(data: DataSpec, name: str, value: Number, model: Path) -> None:
    """Raise `InputError`: the data gives a number another value than the one that its program was exported for."""
    if not is_given(data, name):
        return
    given = single_number(data, name, _DTYPES[type(value)], model).item()
    if given != value:
        raise InputError(
            f"{model}: the program was exported for {name} = {value} alone; {data.path} gives {given}: export the "
            f"module again with {name}={given}, or leave the array out"
        )


def is_given(data: DataSpec, name: str) -> bool:
    """Whether the data has an array of that name."""
    return any(len(_given(path, name)) for path in (data.path, data.test_path) if path is not None)


def given_kind(data: DataSpec, name: str) -> type[Number]:
    """Whether the data has whole numbers, real ones or flags under that name; int where it has none."""
    given = [array for path in (data.path, data.test_path) if path is not None for array in [_given(path, name)]]
    kinds = {array.dtype.kind for array in given if len(array)}
    return float if "f" in kinds else bool if kinds == {"b"} else int


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

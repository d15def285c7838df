"""Fields of XGBoost's document of a model, by kind: numbers stand there as text, as numbers, or in typed lists."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["DamagedModelError", "count", "field", "integers", "length", "texts"]

_T = TypeVar("_T")
_WHOLE = re.compile(r"-?[0-9]{1,18}")  # what int() takes beyond it ("1_0"), the library reads otherwise


class DamagedModelError(ValueError):
    """What an XGBoost model holds cannot be; the message says what, without the file's name."""


def field(holder: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    """The field of that name.

    Raises:
        DamagedModelError: it is not there, or of another kind.
    """
    value = holder.get(name)
    if not isinstance(value, kind):
        kind_there = type(value).__name__ if name in holder else "not there"
        raise DamagedModelError(f"'{name}' is {kind_there}, not {kind.__name__}")
    return value


def count(holder: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number, which XGBoost writes as text; ``default`` is what older versions meant that did not write it.

    Raises:
        DamagedModelError: no whole number between ``low`` and ``high``.
    """
    value = holder.get(name, default)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise DamagedModelError(f"'{name}' is {str(value)[:40]!r}, not a whole number from {low} to {high}")
    return value


def texts(holder: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts; empty where it is not there."""
    values = holder.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DamagedModelError(f"'{name}' is not a list of texts")
    return values


def length(holder: Mapping[str, Any], name: str) -> int:
    """How many values a list of numbers holds."""
    values = holder.get(name)
    if not isinstance(values, (list, np.ndarray)):
        raise DamagedModelError(f"'{name}' is not a list of numbers")
    return len(values)


def integers(holders: Sequence[Mapping[str, Any]], name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The whole numbers of that field of all holders, end to end, and how many each has.

    Raises:
        DamagedModelError: not there, or not whole numbers of 64 bits.
    """
    lists = [holder.get(name) for holder in holders]
    if all(isinstance(values, np.ndarray) and values.dtype.kind in "iu" for values in lists):
        joined = np.concatenate([np.empty(0, np.int64), *lists])
    elif all(isinstance(values, list) and {*map(type, values)} <= {int, bool} for values in lists):
        joined = np.array([*chain.from_iterable(lists)], np.int64)  # type: ignore[arg-type]
    else:
        raise DamagedModelError(f"'{name}' is not a list of whole numbers")
    return joined.astype(np.int64), np.array([len(values) for values in lists], np.int64)  # type: ignore[arg-type]

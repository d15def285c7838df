"""Whole numbers that a narrower type does not hold: which one, and where it stands."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["first_outside"]


def first_outside(array: np.ndarray, dtype: np.dtype[Any]) -> str | None:
    """The first number that a whole type (or bool) does not hold, with its place and the limits; None where all fit."""
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    # Both ends first: the place costs a pass over all numbers, and is needed in the message alone.
    if not array.size or low <= int(array.min()) <= int(array.max()) <= high:
        return None
    place = tuple(int(i) for i in np.argwhere((array < low) | (array > high))[0])
    column = f", column {place[1] if len(place) == 2 else list(place[1:])}" if len(place) > 1 else ""
    where = f"row {place[0]}{column}: " if place else ""
    return f"{where}{int(array[place])} is outside {dtype.name}, which holds {low} to {high}"

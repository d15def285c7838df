"""Inputs for a file that takes them with their axes in another order, as files made elsewhere do."""

import numpy as np

__all__ = ["oriented"]


def oriented(column: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A row (1, C, ...) as (1, ..., C), or the other way round, where only that fits the declared shape.

    A declared size below 1 is free.
    """
    if column.ndim < 3 or len(shape) != column.ndim or _fits(column.shape, shape):
        return column
    for moved in (np.moveaxis(column, 1, -1), np.moveaxis(column, -1, 1)):
        if _fits(moved.shape, shape):
            return np.ascontiguousarray(moved)
    return column


def _fits(given: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return all(b < 1 or a == b for a, b in zip(given, declared, strict=True))

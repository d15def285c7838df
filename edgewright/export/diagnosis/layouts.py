"""The ways in which the elements of one array may lie in another: converters transpose, reshape and drop axes."""

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import prod

import numpy as np

__all__ = ["Layout", "arranged", "layouts"]

Shape = tuple[int, ...]
_MAX_AXES = 4  # of which every order is tried; of more, those that move the channels
_SAMPLES = 1024


@dataclass(frozen=True, eq=False)
class Layout:
    """Reshape to ``split``, transpose by ``axes``, reshape to the other's shape.

    ``places`` and ``origins`` are positions in the other and where in the one their elements come from.
    """

    split: Shape
    axes: tuple[int, ...]
    places: np.ndarray
    origins: np.ndarray


def arranged(stack: np.ndarray, layout: Layout, shape: Shape) -> np.ndarray:
    """A stack (rows, ...) of the one with each row as the other lays it out: (rows, *shape)."""
    rows = len(stack)
    moved = stack.reshape(rows, *layout.split).transpose(0, *(axis + 1 for axis in layout.axes))
    return np.ascontiguousarray(moved.reshape(rows, *shape))


@cache
def layouts(one: Shape, other: Shape) -> tuple[Layout, ...]:
    """From the most plain to the least; empty where the sizes differ."""
    if prod(one) != prod(other):
        return ()
    # Axes of one place move nothing.
    a, b = (tuple(n for n in shape if n != 1) for shape in (one, other))
    unique_layouts: dict[bytes, Layout] = {}
    size = prod(a)
    places = np.unique(np.linspace(0, max(size - 1, 0), _SAMPLES).astype(np.int64)) if size else np.empty(0, np.int64)
    # Places themselves, put in another order, say where each element comes from.
    numbers = np.arange(size)
    for split, axes in _orders(a, b):
        origins = numbers.reshape(split).transpose(axes).reshape(-1)[places]
        # Of orders that put all samples in the same places the plainest stands for all.
        unique_layouts.setdefault(origins.tobytes(), Layout(split, axes, places, origins))
    return tuple(unique_layouts.values())


def _orders(a: Shape, b: Shape) -> list[tuple[Shape, tuple[int, ...]]]:
    # The same sizes in some order; where two are equal, as of a square image, several orders have the shape.
    if sorted(a) == sorted(b):
        return [(a, axes) for axes in _axes(len(a)) if tuple(a[i] for i in axes) == b]
    forward = [(a, axes) for axes in _axes(len(a))]
    # The one is flat, say, and was flattened in another order than the axes of the other have.
    backward = [(tuple(b[axes.index(i)] for i in range(len(b))), axes) for axes in _axes(len(b))]
    return forward + backward


def _axes(count: int) -> list[tuple[int, ...]]:
    """Orders of axes, the plain one first."""
    if count <= _MAX_AXES:
        return list(permutations(range(count)))
    plain = tuple(range(count))
    moves = [(i, j) for i in (0, 1, count - 1) for j in (0, 1, count - 1) if i != j]
    return [plain, *(_moved(plain, i, j) for i, j in moves)]


def _moved(axes: tuple[int, ...], start: int, end: int) -> tuple[int, ...]:
    rest = [axis for axis in axes if axis != axes[start]]
    return (*rest[:end], axes[start], *rest[end:])

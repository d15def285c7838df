"""The rows that static quantization learns its ranges from: calibration rows, never validation or test rows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgewright.errors import UnsupportedError

__all__ = ["MAX_ROWS", "calibration_rows"]

MAX_ROWS = 256  # ranges settle after some hundred rows; each costs one float inference
_PREFIX = "calibration.x."


def calibration_rows(dataset: Path, inputs: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """One row at a time, as {input: (1, ...)}, spread evenly over the split.

    Rows with a missing number (NaN) are left out: a range cannot be learned from them.

    Raises:
        UnsupportedError: the dataset has no usable calibration row for these inputs.
    """
    with np.load(dataset, allow_pickle=False) as arrays:
        absent = [name for name in inputs if _PREFIX + name not in arrays]
        if absent:
            raise UnsupportedError(f"the dataset has no calibration rows for input '{absent[0]}'; int8 needs them")
        columns = {name: arrays[_PREFIX + name] for name in inputs}
    usable = np.flatnonzero(np.logical_and.reduce([_finite(column) for column in columns.values()]))
    if not len(usable):
        raise UnsupportedError("no calibration row is without a missing or infinite number; int8 needs some")
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, MAX_ROWS).astype(int))]
    for row in chosen:
        yield {name: np.ascontiguousarray(column[row : row + 1]) for name, column in columns.items()}


def _finite(column: np.ndarray) -> np.ndarray:
    finite: np.ndarray = np.isfinite(column.reshape(len(column), -1)).all(axis=1)
    return finite

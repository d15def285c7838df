"""The rows that static quantization learns its ranges from: calibration rows, never validation or test rows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgewright.errors import UnsupportedError

__all__ = ["MAX_ROWS", "CalibrationRows"]

MAX_ROWS = 256  # ranges settle after some hundred rows; each costs one float inference
_PREFIX = "calibration.x."


class CalibrationRows:
    """One row at a time, as {input: (1, ...)}, spread evenly over the split; may be gone through more than once."""

    def __init__(self, dataset: Path, inputs: list[str]) -> None:
        """Read the split.

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
        self._columns = {name: column[chosen] for name, column in columns.items()}
        self._count = len(chosen)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for row in range(self._count):
            yield {name: column[row : row + 1] for name, column in self._columns.items()}


def _finite(column: np.ndarray) -> np.ndarray:
    finite: np.ndarray = np.isfinite(column.reshape(len(column), -1)).all(axis=1)
    return finite

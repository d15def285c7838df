"""The rows that static quantization learns its ranges from: calibration rows, never validation or test rows."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright_runtime.bundle.integer_range import first_outside
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["MAX_ROWS", "CalibrationRows", "integers_in_width"]

MAX_ROWS = 256  # ranges settle after some hundred rows; each costs one float inference
_PREFIX = "calibration.x."


class CalibrationRows:
    """One row at a time, as {input: (1, ...)}, spread evenly over the split; may be gone through more than once.

    Rows are read from the file as they are needed: 256 images of 224 x 224 would take 150 MB.
    """

    def __init__(self, dataset: Path, specs: Sequence[TensorSpec]) -> None:
        """Find the rows of the inputs that a file declares, in its own width of whole numbers.

        Rows with a missing number (NaN) are left out: a range cannot be learned from them.

        Raises:
            UnsupportedError: the dataset has no usable calibration row for these inputs.
        """
        inputs = [spec.name for spec in specs]
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in specs}
        with zipfile.ZipFile(dataset) as archive:
            members = set(archive.namelist())
        absent = [name for name in inputs if f"{_PREFIX}{name}.npy" not in members]
        if absent:
            raise UnsupportedError(f"the dataset has no calibration rows for input '{absent[0]}'; int8 needs them")
        self._dataset, self._inputs = dataset, inputs
        usable = np.flatnonzero([all(np.isfinite(value).all() for value in row.values()) for row in self._all()])
        if not len(usable):
            raise UnsupportedError("no calibration row is without a missing or infinite number; int8 needs some")
        # With fewer rows than that, linspace names some of them twice.
        self._chosen = usable[np.unique(np.linspace(0, len(usable) - 1, MAX_ROWS).astype(int))]

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        chosen = set(self._chosen.tolist())
        return (row for number, row in enumerate(self._all()) if number in chosen)

    def _all(self) -> Iterator[dict[str, np.ndarray]]:
        columns = [_rows_of(self._dataset, f"{_PREFIX}{name}.npy") for name in self._inputs]
        for values in zip(*columns, strict=True):
            row = dict(zip(self._inputs, values, strict=True))
            yield {name: integers_in_width(value, self._dtypes[name], name) for name, value in row.items()}


def integers_in_width(column: np.ndarray, wanted: np.dtype[Any], name: str) -> np.ndarray:
    """Whole numbers in the width of a file's own input: LiteRT's converter narrows int64.

    Raises:
        UnsupportedError: a number does not fit.
    """
    if column.dtype == wanted or column.dtype.kind not in "iu" or wanted.kind not in "iu":
        return column
    outside = first_outside(column, wanted)
    if outside:
        raise UnsupportedError(f"input '{name}' is {wanted.name} on the device: {outside}; leave such rows out")
    return column.astype(wanted)


def _rows_of(dataset: Path, member: str) -> Iterator[np.ndarray]:
    """The rows (1, ...) of one array of an ``.npz``, one after the other, by the format of numpy.lib.format."""
    with zipfile.ZipFile(dataset) as archive, archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        # A header's length has 2 bytes in format 1.0 and 4 after it; 3.0 differs from 2.0 in field names alone.
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
        # A row's numbers do not lie together then, as of a transposed array: the whole is read.
        if is_fortran and len(shape) > 1:
            with np.load(dataset, allow_pickle=False) as arrays:
                yield from np.split(arrays[member.removesuffix(".npy")], shape[0])
            return
        # Bytes of one row; of no further axes the product is 1.
        row = np.dtype(dtype).itemsize * int(np.prod(shape[1:], dtype=int))
        for _ in range(shape[0]):
            yield np.frombuffer(stream.read(row), dtype).reshape(1, *shape[1:])

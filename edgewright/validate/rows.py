"""Reads the test split of a `Dataset`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset
from edgewright.errors import InputError

__all__ = ["HeldOut", "read_test_rows"]

_INPUT, _REFERENCE = "test.x.", "test.reference."


@dataclass(frozen=True)
class HeldOut:
    """Inputs (N, ...) and the source's outputs (N, ...) by name, truth (N,), the source's classes (N,) or None."""

    inputs: dict[str, NDArray[np.generic]]
    truth: NDArray[np.generic]
    reference: dict[str, NDArray[np.float64]]
    predicted: NDArray[np.int64] | None

    @property
    def count(self) -> int:
        """Number of test rows."""
        return len(self.truth)


def read_test_rows(dataset: Dataset, order: Sequence[str] = ()) -> HeldOut:
    """The test split; ``order`` is the model's own order of inputs, else that of the file.

    Raises:
        InputError: the file is not there or lacks the arrays that a `Dataset` has.
    """
    path = dataset.artifact.path
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name.startswith("test.")}
    except (OSError, ValueError) as e:
        raise InputError(f"dataset {path}: cannot be read: {str(e).splitlines()[0]}") from e
    inputs = {name.removeprefix(_INPUT): a for name, a in arrays.items() if name.startswith(_INPUT)}
    reference = {n.removeprefix(_REFERENCE): a for n, a in arrays.items() if n.startswith(_REFERENCE)}
    if not inputs or not reference or "test.y" not in arrays:
        raise InputError(f"dataset {path}: needs test.x.*, test.y and test.reference.*; found {sorted(arrays)}")
    if set(order) == set(inputs):
        inputs = {name: inputs[name] for name in order}
    return HeldOut(inputs, arrays["test.y"], reference, arrays.get("test.predicted"))

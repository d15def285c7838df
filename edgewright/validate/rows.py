"""Reads one split of a `Dataset`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset
from edgewright.errors import InputError

__all__ = ["HeldOut", "Split", "read_rows"]

Split = Literal["test", "validation", "calibration"]


@dataclass(frozen=True)
class HeldOut:
    """Inputs (N, ...) and the source's outputs (N, ...) by name, truth (N,), the source's classes (N,) or None.

    Where the task is none, truth is what a metric of the user's own reads, (N, ...).

    ``reference`` is empty where the dataset holds the source's answers for another split only.
    """

    inputs: dict[str, NDArray[Any]]
    truth: NDArray[Any]
    reference: dict[str, NDArray[np.float64]]
    predicted: NDArray[np.int64] | None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.truth)


def read_rows(dataset: Dataset, split: Split = "test", order: Sequence[str] = ()) -> HeldOut:
    """The rows of a split; ``order`` is the model's own order of inputs, else that of the file.

    Raises:
        InputError: the file is not there or lacks the arrays that a `Dataset` has.
    """
    path = dataset.artifact.path
    try:
        with np.load(path, allow_pickle=False) as archive:
            # One split alone: an archive's arrays are read when they are asked for.
            arrays = {name: archive[name] for name in archive.files if name.startswith(f"{split}.")}
    except (OSError, ValueError) as e:
        raise InputError(f"dataset {path}: cannot be read: {str(e).splitlines()[0]}") from e
    inputs = _below(f"{split}.x.", arrays)
    reference = _below(f"{split}.reference.", arrays)
    truth = arrays.get(f"{split}.y", arrays.get(f"{split}.answers"))
    if not inputs or truth is None or (split == "test" and not reference):
        raise InputError(
            f"dataset {path}: the {split} split needs {split}.x.*, {split}.y and test.reference.*; "
            f"found {sorted(arrays)}"
        )
    if set(order) == set(inputs):
        inputs = {name: inputs[name] for name in order}
    return HeldOut(inputs, truth, reference, arrays.get(f"{split}.predicted"))


def _below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

"""The rows that a technique may see: training and calibration; validation to choose by; never test. Imports torch."""

from pathlib import Path

import numpy as np
import torch

from edgewright.errors import UnsupportedError
from edgewright.optimize.training import TrainingRows

__all__ = ["TechniqueRows", "calibration_inputs", "training_rows", "validation_rows"]


class TechniqueRows:
    """The rows of a dataset file that a technique may ask for; each raises as the function of its name here."""

    def __init__(self, dataset: Path) -> None:
        self._dataset = dataset

    def training(self) -> TrainingRows | None:
        """To train with, (N, ...) and targets (N,), if there are any; None where there are no rows."""
        return training_rows(self._dataset)

    def validation(self) -> TrainingRows:
        """To choose by."""
        return validation_rows(self._dataset)

    def calibration_inputs(self) -> torch.Tensor:
        """Inputs without labels, (N, ...)."""
        return calibration_inputs(self._dataset)


def training_rows(dataset: Path) -> TrainingRows | None:
    """The ``train`` split of a dataset file (see `edgewright.artifact.Dataset`); None where it holds none.

    Raises:
        UnsupportedError: the model has several inputs, or its input is not a tensor of float32.
    """
    return _rows(dataset, "train")


def validation_rows(dataset: Path) -> TrainingRows:
    """The ``validation`` split: what may choose between candidates, and may train none.

    Raises:
        UnsupportedError: there is none, or as for `training_rows`.
    """
    rows = _rows(dataset, "validation")
    if rows is None or not len(rows.inputs):
        raise UnsupportedError("a search needs validation rows; give more data, or a fixed ratio")
    return rows


def _rows(dataset: Path, split: str) -> TrainingRows | None:
    with np.load(dataset) as arrays:
        if not any(name.startswith(f"{split}.x.") for name in arrays.files):
            return None
        if f"{split}.y" not in arrays:
            return TrainingRows(_inputs(arrays, split), None)
        targets = arrays[f"{split}.y"]
        # Whole numbers and booleans are class indices, which torch's losses take as int64; all else is a value.
        whole = targets.dtype.kind in "iub"
        return TrainingRows(_inputs(arrays, split), torch.from_numpy(targets.astype(np.int64 if whole else np.float32)))


def calibration_inputs(dataset: Path) -> torch.Tensor:
    """Inputs of the calibration rows, and of the training rows where there are any: (N, ...) float32, no labels."""
    with np.load(dataset) as arrays:
        return _inputs(arrays, "train" if any(name.startswith("train.x.") for name in arrays.files) else "calibration")


def _inputs(arrays: "np.lib.npyio.NpzFile", split: str) -> torch.Tensor:
    names = [name for name in arrays.files if name.startswith(f"{split}.x.")]
    if len(names) != 1:
        raise UnsupportedError(f"compression that looks at data takes models with one input; this one has {len(names)}")
    inputs = arrays[names[0]]
    if inputs.dtype != np.float32:
        raise UnsupportedError(f"compression that looks at data takes float32 inputs; this one is {inputs.dtype}")
    return torch.from_numpy(inputs)

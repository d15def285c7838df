"""The rows that a technique may see: training and calibration, never validation or test. Imports torch."""

from pathlib import Path

import numpy as np
import torch

from edgewright.errors import UnsupportedError
from edgewright.optimize.training import Rows

__all__ = ["calibration_inputs", "training_rows"]


def training_rows(dataset: Path) -> Rows | None:
    """The ``train`` split of a dataset file (see `edgewright.artifact.Dataset`); None where it holds none.

    Raises:
        UnsupportedError: the model has several inputs, or its input is no tensor of float32.
    """
    with np.load(dataset) as arrays:
        if "train.y" not in arrays:
            return None
        targets = arrays["train.y"]
        whole = targets.dtype.kind in "iub"
        return Rows(_inputs(arrays, "train"), torch.from_numpy(targets.astype(np.int64 if whole else np.float32)))


def calibration_inputs(dataset: Path) -> torch.Tensor:
    """Inputs of the calibration rows, and of the training rows where there are any: (N, ...) float32, no labels."""
    with np.load(dataset) as arrays:
        return _inputs(arrays, "train" if "train.y" in arrays else "calibration")


def _inputs(arrays: "np.lib.npyio.NpzFile", split: str) -> torch.Tensor:
    names = [name for name in arrays.files if name.startswith(f"{split}.x.")]
    if len(names) != 1:
        raise UnsupportedError(f"compression that looks at data takes models with one input; this one has {len(names)}")
    inputs = arrays[names[0]]
    if inputs.dtype != np.float32:
        raise UnsupportedError(f"compression that looks at data takes float32 inputs; this one is {inputs.dtype}")
    return torch.from_numpy(inputs)

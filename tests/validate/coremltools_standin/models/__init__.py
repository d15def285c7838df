"""Loading and predicting."""

from pathlib import Path

import numpy as np

from .. import ComputeUnit
from . import compute_device, compute_plan, utils

__all__ = ["CompiledMLModel", "compute_device", "compute_plan", "utils"]


class CompiledMLModel:
    """``softmax(x W)``, from what the stand-in's `compile_model` made."""

    def __init__(self, path, compute_units=ComputeUnit.ALL, function_name=None, optimization_hints=None, asset=None):
        if not isinstance(path, str) or not isinstance(compute_units, ComputeUnit):
            raise TypeError("path must be str, compute_units a ComputeUnit")
        with np.load(Path(path) / utils.WEIGHTS) as stored:
            self._weights = stored["w"]
            self._repeats = int(stored["repeats"])

    def predict(self, data, state=None):
        if type(data) is not dict:
            raise TypeError(f"data must be a dict, got {type(data)}")
        x = data["x"].astype(np.float32)
        if x.shape[1:] != self._weights.shape[:1]:
            raise RuntimeError(f"MultiArray shape {x.shape} does not match the shape in the model description")
        for _ in range(self._repeats):
            raised = np.exp(x @ self._weights)
        return {"scores": (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)}

"""Arithmetic on sizes that depend on the batch: it is done while importing and leaves nothing in the graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from edgewright.intake.builder import Dims, Op, refuse, tensor
from edgewright.intake.operators.shape import integers

__all__ = ["HANDLERS_OF_DIMS"]


def _dims(op: Op, index: int) -> Dims:
    value = op.input(index)
    if isinstance(value, fx.Node) or value is None:
        raise refuse(op, "mixes sizes that depend on the batch with data")
    if isinstance(value, torch.Tensor):
        return value.numpy().astype(object)
    return value


def _dims_slice(op: Op) -> Any:
    (start,), (end,) = integers(op, 1, "starts") or [0], integers(op, 2, "ends") or [0]
    (step,) = integers(op, 4) or [1]
    return _dims(op, 0)[slice(start, end, step)]


def _dims_gather(op: Op) -> Any:
    return np.take(_dims(op, 0), tensor(op, 1).numpy(), axis=op.get("axis", 0))


def _dims_div(op: Op) -> Any:
    return _dims(op, 0) // _dims(op, 1)


HANDLERS_OF_DIMS: dict[str, Callable[[Op], Any]] = {
    "Identity": lambda op: _dims(op, 0),
    "Cast": lambda op: _dims(op, 0),
    "Gather": _dims_gather,
    "Slice": _dims_slice,
    "Concat": lambda op: np.concatenate([_dims(op, i) for i in range(len(op.inputs))]),
    "Squeeze": lambda op: _dims(op, 0).reshape(()),
    "Unsqueeze": lambda op: _dims(op, 0).reshape(1),
    "Reshape": lambda op: _dims(op, 0).reshape(tensor(op, 1).tolist()),
    "Add": lambda op: _dims(op, 0) + _dims(op, 1),
    "Sub": lambda op: _dims(op, 0) - _dims(op, 1),
    "Mul": lambda op: _dims(op, 0) * _dims(op, 1),
    "Div": _dims_div,
    "ReduceProd": lambda op: np.prod(_dims(op, 0), keepdims=bool(op.get("keepdims", 1))),
}
"""Arithmetic on sizes that depend on the batch: it leaves nothing in the graph."""

"""Arithmetic on sizes that depend on the batch: it is done while importing and leaves nothing in the graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from edgewright.intake.builder import Dims, Op, TensorSequence, refuse, tensor
from edgewright.intake.operators.shape import integers

__all__ = ["HANDLERS_OF_DIMS", "OF_EITHER_SIDE"]

OF_EITHER_SIDE = frozenset(
    {"Concat", "Where", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Max", "Min", "Mod"}
    | {"Add", "Sub", "Mul", "Div"}
)
"""Operators that compute on sizes whichever operand they are; of others it is the first that counts."""


def _dims(op: Op, index: int) -> Dims:
    value = op.input(index)
    if isinstance(value, (fx.Node, TensorSequence)) or value is None:
        raise refuse(op, "mixes sizes that depend on the batch with data")
    if isinstance(value, torch.Tensor):
        # As objects: a result may hold SymInt.
        return value.numpy().astype(object)
    return value


def _dims_slice(op: Op) -> Any:
    (start,), (end,) = integers(op, 1, "starts") or [0], integers(op, 2, "ends") or [0]
    (step,) = integers(op, 4) or [1]
    return _dims(op, 0)[slice(start, end, step)]


def _dims_gather(op: Op) -> Any:
    return np.take(_dims(op, 0), tensor(op, 1).numpy(), axis=op.get("axis", 0))


def _dims_div(op: Op) -> Any:
    # n / 2.0 need not be whole, and a size must be.
    if any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in op.inputs):
        raise refuse(op, "divides a size that depends on the batch by a number that is not whole")
    return _quotients(_dims(op, 0), _dims(op, 1))


def _quotient(n: Any, by: Any) -> Any:
    """Towards zero, as ONNX divides whole numbers; whether a sign holds for every batch is looked at afterwards."""
    return n // by if (n >= 0) == (by > 0) else -(-n // by)


_quotients = np.frompyfunc(_quotient, 2, 1)


def _dims_mod(op: Op) -> Any:
    left, right = _dims(op, 0), _dims(op, 1)
    # The divisor's sign, or with fmod=1 the dividend's.
    return left - _quotients(left, right) * right if op.get("fmod", 0) else left % right


def _dims_mul(op: Op) -> Any:
    return _whole(_dims(op, 0)) * _whole(_dims(op, 1))


def _whole(sizes: Dims) -> Dims:
    """2.0 as 2: exporters scale sizes as real numbers."""
    whole: Dims = np.vectorize(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n, [object])(sizes)
    return whole


def _dims_split(op: Op) -> Any:
    sizes = integers(op, 1, "split") or [len(_dims(op, 0)) // len(op.outputs)] * len(op.outputs)
    return np.split(_dims(op, 0), np.cumsum(sizes)[:-1])


def _dims_where(op: Op) -> Any:
    return np.where(_dims(op, 0).astype(bool), _dims(op, 1), _dims(op, 2))


def _compared(compare: Callable[[Any, Any], Any]) -> Callable[[Op], Any]:
    """A comparison: whether it holds for every batch is looked at afterwards, as for all that is decided."""
    return lambda op: compare(_dims(op, 0), _dims(op, 1)).astype(bool)


HANDLERS_OF_DIMS: dict[str, Callable[[Op], Any]] = {
    "Identity": lambda op: _dims(op, 0),
    "Shape": lambda op: np.array(_dims(op, 0).shape, dtype=object),
    "Size": lambda op: np.array(_dims(op, 0).size, dtype=object),
    "Split": _dims_split,
    "Expand": lambda op: np.broadcast_to(_dims(op, 0), tensor(op, 1).tolist()),
    "Where": _dims_where,
    "Equal": _compared(np.equal),
    "Greater": _compared(np.greater),
    "Less": _compared(np.less),
    "GreaterOrEqual": _compared(np.greater_equal),
    "LessOrEqual": _compared(np.less_equal),
    "Max": lambda op: np.maximum(_dims(op, 0), _dims(op, 1)),
    "Min": lambda op: np.minimum(_dims(op, 0), _dims(op, 1)),
    "Neg": lambda op: -_dims(op, 0),
    "Mod": _dims_mod,
    # Sizes are whole: rounding and casting leave them as they are.
    "Floor": lambda op: _dims(op, 0),
    "Ceil": lambda op: _dims(op, 0),
    "Cast": lambda op: _dims(op, 0),
    "Gather": _dims_gather,
    "Slice": _dims_slice,
    "Concat": lambda op: np.concatenate([_dims(op, i) for i in range(len(op.inputs))]),
    # A list of sizes has one axis: what is left of it is one number.
    "Squeeze": lambda op: _dims(op, 0).reshape(()),
    "Unsqueeze": lambda op: _dims(op, 0).reshape(1),
    "Reshape": lambda op: _dims(op, 0).reshape(tensor(op, 1).tolist()),
    "Add": lambda op: _dims(op, 0) + _dims(op, 1),
    "Sub": lambda op: _dims(op, 0) - _dims(op, 1),
    "Mul": _dims_mul,
    "Div": _dims_div,
    "ReduceProd": lambda op: np.prod(_dims(op, 0), keepdims=bool(op.get("keepdims", 1))),
}
"""Arithmetic on sizes that depend on the batch: it leaves nothing in the graph."""

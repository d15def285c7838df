"""Sequences of tensors whose length is known: they are taken apart at import and leave nothing in the graph.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from edgewright.intake.builder import Builder, Op, Operand, Result, TensorSequence, operand, refuse, tensor
from edgewright.intake.operators.shape import dims_or_constant, integers

__all__ = ["HANDLERS"]


def split_to_sequence(b: Builder, op: Op) -> Result:
    """SplitToSequence: into pieces of given sizes, of one size (the last may be smaller), or of one element each."""
    x = operand(op, 0)
    axis = op.get("axis", 0) % b.rank(x)
    total, sizes, keep = b.shape(x)[axis], integers(op, 1), bool(op.get("keepdims", 1))
    if not isinstance(total, int):
        raise refuse(op, "along the batch axis, so the sequence has no fixed length")
    # A scalar is the size of every piece; a list of one is the sizes themselves.
    if sizes is None or np.ndim(b.fake(op.input(1))) == 0:
        size = 1 if sizes is None else int(sizes[0])
        whole, rest = divmod(total, size)
        pieces = [size] * whole + [rest] * (rest > 0)
    else:
        pieces = [int(s) for s in sizes]
    parts = b.several(len(pieces), torch.split, x, pieces, axis)
    # keepdims is for pieces of one element without given sizes alone.
    if sizes is None and not keep:
        parts = tuple(b.call(torch.squeeze, part, axis) for part in parts)
    return TensorSequence(parts)


def sequence_construct(b: Builder, op: Op) -> Result:
    """SequenceConstruct."""
    return TensorSequence(tuple(_item(op, i) for i in range(len(op.inputs))))


def sequence_empty(b: Builder, op: Op) -> Result:
    """SequenceEmpty; its type is that of what is inserted."""
    op.get("dtype")
    return TensorSequence(())


def sequence_at(b: Builder, op: Op) -> Result:
    """SequenceAt: the tensor at a known position."""
    items = _sequence(op).items
    return items[_position(op, 1, len(items))]


def sequence_length(b: Builder, op: Op) -> Result:
    """SequenceLength."""
    return torch.tensor(len(_sequence(op).items))


def sequence_insert(b: Builder, op: Op) -> Result:
    """SequenceInsert, at the end where no position is given."""
    items = _sequence(op).items
    at = len(items) if op.input(2) is None else _position(op, 2, len(items) + 1, last=len(items))
    return TensorSequence((*items[:at], _item(op, 1), *items[at:]))


def sequence_erase(b: Builder, op: Op) -> Result:
    """SequenceErase, of the last where no position is given."""
    items = _sequence(op).items
    at = len(items) - 1 if op.input(1) is None else _position(op, 1, len(items))
    return TensorSequence(items[:at] + items[at + 1 :])


def concat_from_sequence(b: Builder, op: Op) -> Result:
    """ConcatFromSequence: side by side on an axis, or on a new one."""
    items, axis, new = _sequence(op).items, op.get("axis"), bool(op.get("new_axis", 0))
    # Sizes are joined as sizes: as data they would be read at run time.
    if any(isinstance(item, np.ndarray) for item in items):
        return dims_or_constant((np.stack if new else np.concatenate)([_sizes(op, item) for item in items], axis))
    return b.call(torch.stack if new else torch.cat, list(items), axis)


def _sequence(op: Op) -> TensorSequence:
    value = op.input(0)
    if not isinstance(value, TensorSequence):
        raise refuse(op, "its input is not a sequence of known length")
    return value


def _item(op: Op, index: int) -> Any:
    value = op.input(index)
    return value if isinstance(value, np.ndarray) else operand(op, index)


def _position(op: Op, index: int, count: int, last: int | None = None) -> int:
    """A position, counted from the end where it is negative: of the ``last`` + 1 places that may be named so."""
    position = int(tensor(op, index).reshape(-1)[0])
    position = position + (count if last is None else last) if position < 0 else position
    if not 0 <= position < count:
        raise refuse(op, f"position {position} in a sequence of {count}")
    return position


def _sizes(op: Op, item: Operand | Any) -> Any:
    if isinstance(item, fx.Node):
        raise refuse(op, "mixes sizes that depend on the batch with data")
    return item.numpy().astype(object) if isinstance(item, torch.Tensor) else item


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "SplitToSequence": split_to_sequence,
    "SequenceConstruct": sequence_construct,
    "SequenceEmpty": sequence_empty,
    "SequenceAt": sequence_at,
    "SequenceLength": sequence_length,
    "SequenceInsert": sequence_insert,
    "SequenceErase": sequence_erase,
    "ConcatFromSequence": concat_from_sequence,
}

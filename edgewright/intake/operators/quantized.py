"""Models that come in quantized: integers and their scales, kept as arithmetic on real numbers.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

import operator
from collections.abc import Callable

import torch

from edgewright.intake.builder import Builder, Op, Operand, Result, operand, refuse

__all__ = ["HANDLERS"]


def _aligned(b: Builder, op: Op, x: Operand, values: Operand) -> Operand:
    """One scale for all, one for each position on ``axis``, or one for each block of ``block_size`` positions."""
    axis, size = op.get("axis", 1), op.get("block_size", 0)
    if b.rank(values) == 0 or (b.rank(values) == 1 and b.shape(values) == (1,)):
        return b.call(torch.reshape, values, [])
    axis = axis % b.rank(x)
    if size:
        length = b.shape(x)[axis]
        if not isinstance(length, int) or b.rank(values) != b.rank(x) or b.shape(values)[axis] != -(-length // size):
            raise refuse(op, f"scales of shape {tuple(b.shape(values))} for blocks of {size}")
        # One scale for each block, written out for each position; the last block may be shorter.
        wide = b.call(torch.repeat_interleave, values, size, axis)
        return b.call(operator.getitem, wide, (slice(None),) * axis + (slice(0, length),))
    if b.rank(values) != 1:
        raise refuse(op, f"scales of {b.rank(values)} axes without block_size")
    return b.call(torch.reshape, values, [-1 if i == axis else 1 for i in range(b.rank(x))])


def quantize_linear(b: Builder, op: Op) -> Result:
    """QuantizeLinear to 8 or 16 bits: saturate(round(x / scale) + zero point)."""
    x, scale, zero = operand(op, 0), operand(op, 1), op.input(2)
    given = op.get("output_dtype", "UNDEFINED")
    # ONNX's default without a zero point and a dtype is uint8.
    given = torch.uint8 if given == "UNDEFINED" else given
    dtype = b.dtype(zero) if isinstance(zero, (torch.Tensor, torch.fx.Node)) else given
    if not isinstance(dtype, torch.dtype) or dtype.is_floating_point:
        raise refuse(op, f"to {dtype}")
    y = b.call(torch.round, b.call(torch.div, x, _aligned(b, op, x, scale)))
    if isinstance(zero, (torch.Tensor, torch.fx.Node)):
        y = b.call(torch.add, y, b.call(torch.Tensor.to, _aligned(b, op, x, zero), b.dtype(x)))
    # Saturated before the cast, which would wrap.
    limits = torch.iinfo(dtype)
    return b.call(torch.Tensor.to, b.call(torch.clamp, y, limits.min, limits.max), dtype)


def dequantize_linear(b: Builder, op: Op) -> Result:
    """DequantizeLinear: (x - zero point) * scale."""
    x, scale, zero = operand(op, 0), operand(op, 1), op.input(2)
    # Real numbers first: the difference of two bytes does not fit into one.
    real = b.call(torch.Tensor.to, x, b.dtype(scale))
    if isinstance(zero, (torch.Tensor, torch.fx.Node)):
        real = b.call(torch.sub, real, b.call(torch.Tensor.to, _aligned(b, op, x, zero), b.dtype(scale)))
    return b.call(torch.mul, real, _aligned(b, op, x, scale))


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
}

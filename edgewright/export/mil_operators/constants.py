"""Compressed weights, decoded as the Model Intermediate Language's specification of iOS 16 and 18 says."""

import math

import torch
from torch import Tensor

from edgewright.export.mil_operators.arguments import Arguments
from edgewright.export.packed_bits import unpacked

__all__ = ["OPERATORS"]


def _const(a: Arguments) -> Tensor:
    return a.tensor("val")


def _affine_dequantize(a: Arguments) -> Tensor:
    """``scale * (quantized_data - zero_point)``, vectors along ``axis``."""
    data = a.tensor("quantized_data")
    shape = [1] * data.dim()
    shape[a.integer("axis")] = -1
    scale, zero = a.tensor("scale"), a.tensor("zero_point")
    scale = scale.reshape(shape) if scale.dim() else scale
    zero = zero.reshape(shape) if zero.dim() else zero
    return scale * (data.float() - zero.float())


def _bits(packed: Tensor, width: int, count: int) -> Tensor:
    """`count` unsigned integers of `width` bits."""
    return torch.from_numpy(unpacked(packed.to(torch.uint8).reshape(-1).numpy(), width)[:count])


def _lut_to_dense(a: Arguments) -> Tensor:
    """Each element an index of ``log2(len(lut))`` bits into a palette."""
    if a.optional("shape") is None:  # iOS 18
        return _looked_up(a.tensor("indices"), a.tensor("lut"), _vector_axis(a))
    palette, shape = a.tensor("lut"), a.ints("shape")
    # Palettes have a power of two of entries: log2 in whole numbers.
    width = (palette.numel() - 1).bit_length()
    return palette.reshape(-1).index_select(0, _bits(a.tensor("indices"), width, math.prod(shape)).int()).reshape(shape)


def _vector_axis(a: Arguments) -> int:
    return 0 if a.optional("vector_axis") is None else a.integer("vector_axis")


def _looked_up(indices: Tensor, lut: Tensor, axis: int) -> Tensor:
    """Entries of the palette of each element's group; a palette of vectors fills ``axis`` with them.

    ``indices`` (d1, …, dk), ``lut`` (groups along each of these axes, entries, length of a vector).
    """
    groups = [
        # The group of each place along this axis, shaped to broadcast with those of the other axes.
        (torch.arange(size) // _block(size, count)).reshape([-1 if i == at else 1 for i in range(indices.dim())])
        for at, (size, count) in enumerate(zip(indices.shape, lut.shape, strict=False))
    ]
    entries = lut[(*groups, indices.long())]
    if lut.shape[-1] == 1:
        return entries.squeeze(-1)
    return entries.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _block(size: int, count: int) -> int:
    """How many places along an axis share one of ``count`` scales or palettes."""
    if count < 1 or size % count:
        raise ValueError(f"{count} blocks do not divide an axis of {size} places")
    return size // count


def _scattered(mask: Tensor, values: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)


def _lut_to_sparse(a: Arguments) -> list[Tensor]:
    """A palette of the non-zero elements alone: their mask and their values."""
    mask, lut, axis = a.tensor("indices_mask").bool(), a.tensor("lut"), _vector_axis(a)
    dense = _looked_up(_scattered(mask, a.tensor("indices_nonzero_data")), lut, axis)
    # An index of a palette of vectors stands for several elements, all of them non-zero.
    wide = mask.repeat_interleave(lut.shape[-1], axis)
    return [wide, dense[wide]]


def _sparse_blockwise_shift_scale(a: Arguments) -> list[Tensor]:
    """As `_blockwise_shift_scale`, of the non-zero elements alone: their mask and their values."""
    mask = a.tensor("data_mask").bool()
    data = _scattered(mask, a.tensor("nonzero_data")).float()
    return [mask, _rescaled(data, a)[mask]]


def _sparse_to_dense(a: Arguments) -> Tensor:
    """One bit an element: set where the next non-zero value stands."""
    if a.optional("shape") is None:  # iOS 18
        return _scattered(a.tensor("mask").bool(), a.tensor("nonzero_data"))
    shape, values = a.ints("shape"), a.tensor("nonzero_data")
    mask = _bits(a.tensor("mask"), 1, math.prod(shape)).bool()
    return torch.zeros(math.prod(shape), dtype=values.dtype).masked_scatter(mask, values).reshape(shape)


def _blockwise_shift_scale(a: Arguments) -> Tensor:
    """``scale * (data - offset)``, each scale for a block of elements along every axis."""
    return _rescaled(a.tensor("data").float(), a)


def _rescaled(data: Tensor, a: Arguments) -> Tensor:
    scale, offset = a.tensor("scale"), a.optional("offset")
    for axis, (size, blocks) in enumerate(zip(data.shape, scale.shape, strict=True)):
        scale = scale.repeat_interleave(_block(size, blocks), axis)
        offset = None if offset is None else offset.repeat_interleave(_block(size, blocks), axis)
    return scale * (data if offset is None else data - offset.float())


OPERATORS = {
    "const": _const,
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_cast": lambda a: a.tensor("source_val"),
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}

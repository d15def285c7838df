"""Convolution, pooling, normalization and matrix products."""

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from edgewright.errors import UnsupportedError
from edgewright.export.mil_operators.arguments import Arguments

__all__ = ["OPERATORS"]

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _padding(a: Arguments, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Elements before and after each spatial axis, ``[before_0, after_0, before_1, ...]``."""
    kind = a.text("pad_type", "valid")
    if kind == "custom":
        return a.ints("pad", [0] * (2 * len(kernel)))
    if kind == "valid":
        return [0] * (2 * len(kernel))
    if kind not in {"same", "same_lower"}:
        raise UnsupportedError(f"the Core ML padding '{kind}' is not evaluated")
    pads = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        # What an output of ceil(size / stride) places needs; the odd one stands behind, unless `same_lower`.
        total = max(0, (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        pads += [more, less] if kind == "same_lower" else [less, more]
    return pads


def _pad_spatial(x: Tensor, pads: list[int], value: float) -> Tensor:
    if not any(pads):
        return x
    pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
    # MIL counts axes from the first, torch from the last.
    return functional.pad(x, list(itertools.chain.from_iterable(reversed(pairs))), value=value)


def _conv(a: Arguments) -> Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    axes = weight.dim() - 2
    strides, dilations = a.ints("strides", [1] * axes), a.ints("dilations", [1] * axes)
    x = _pad_spatial(x, _padding(a, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations), 0.0)
    return _CONVOLUTIONS[axes](
        x, weight, a.optional("bias"), stride=strides, dilation=dilations, groups=a.integer("groups", 1)
    )


def _conv_transpose(a: Arguments) -> Tensor:
    x, weight = a.tensor("x"), a.tensor("weight")
    axes = weight.dim() - 2
    strides, dilations = a.ints("strides", [1] * axes), a.ints("dilations", [1] * axes)
    # Without padding, then cut: MIL's may be uneven, and torch's takes one number for both sides.
    full = _TRANSPOSED[axes](
        x, weight, a.optional("bias"), stride=strides, dilation=dilations, groups=a.integer("groups", 1)
    )
    kind = a.text("pad_type", "valid")
    pads = a.ints("pad", [0] * (2 * axes)) if kind == "custom" else [0] * (2 * axes)
    if kind == "same":  # what is cut off is what the convolution that it reverses would add, the odd row at the end
        wanted = a.ints("output_shape", [0, 0, *(n * s for n, s in zip(x.shape[2:], strides, strict=True))])[2:]
        cut = [max(0, n - goal) for n, goal in zip(full.shape[2:], wanted, strict=True)]
        pads = [p for total in cut for p in (total // 2, total - total // 2)]
    if "output_shape" in a:
        wanted = a.ints("output_shape")[2:]
        ends = [pads[2 * i] + wanted[i] for i in range(axes)]
        # Where the wanted shape reaches past the full result, the missing rows hold the bias only.
        beyond = [n for i in range(axes) for n in (0, max(0, ends[i] - full.shape[2 + i]))]
        if any(beyond):
            grown = _pad_spatial(full, beyond, 0.0)
            bias = a.optional("bias")
            if bias is not None:
                inside = _pad_spatial(torch.ones_like(full), beyond, 0.0)
                grown = grown + (1 - inside) * bias.reshape(-1, *[1] * axes)
            full = grown
    else:
        ends = [full.shape[2 + i] - pads[2 * i + 1] for i in range(axes)]
    for i in range(axes):
        full = full.narrow(2 + i, pads[2 * i], ends[i] - pads[2 * i])
    return full


def _max_pool(a: Arguments) -> Tensor:
    x, kernel = a.tensor("x"), a.ints("kernel_sizes")
    strides = a.ints("strides", [1] * len(kernel))
    pads = _padding(a, list(x.shape[2:]), kernel, strides, [1] * len(kernel))
    pool = _MAX_POOLS[len(kernel)]
    if not a.flag("ceil_mode"):
        # Padded here: torch's own padding is even, and at most half a window.
        return pool(_pad_spatial(x, pads, float("-inf")), kernel, strides)
    if pads[::2] != pads[1::2]:
        raise UnsupportedError("Core ML pooling with both uneven padding and ceil_mode is not evaluated")
    return pool(x, kernel, strides, padding=pads[::2], ceil_mode=True)  # "same as PyTorch's", MIL says of it


def _avg_pool(a: Arguments) -> Tensor:
    x, kernel = a.tensor("x"), a.ints("kernel_sizes")
    strides = a.ints("strides", [1] * len(kernel))
    pads = _padding(a, list(x.shape[2:]), kernel, strides, [1] * len(kernel))
    pool = _AVERAGE_POOLS[len(kernel)]
    if a.flag("ceil_mode"):
        if any(pads):
            raise UnsupportedError("Core ML pooling with both padding and ceil_mode is not evaluated")
        return pool(x, kernel, strides, ceil_mode=True)
    averaged = pool(_pad_spatial(x, pads, 0.0), kernel, strides)
    if not a.flag("exclude_padding_from_average") or not any(pads):
        return averaged
    # The mean of ones is the share of the window that lies on the input.
    return averaged / pool(_pad_spatial(torch.ones_like(x), pads, 0.0), kernel, strides)


def _l2_pool(a: Arguments) -> Tensor:
    x, kernel = a.tensor("x"), a.ints("kernel_sizes")
    strides = a.ints("strides", [1] * len(kernel))
    x = _pad_spatial(x, _padding(a, list(x.shape[2:]), kernel, strides, [1] * len(kernel)), 0.0)
    return torch.sqrt(_AVERAGE_POOLS[len(kernel)](x * x, kernel, strides) * math.prod(kernel))


def _linear(a: Arguments) -> Tensor:
    return functional.linear(a.tensor("x"), a.tensor("weight"), a.optional("bias"))


def _matmul(a: Arguments) -> Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    return (x.mT if a.flag("transpose_x") else x) @ (y.mT if a.flag("transpose_y") else y)


def _batch_norm(a: Arguments) -> Tensor:
    return functional.batch_norm(
        a.tensor("x"),
        a.tensor("mean"),
        a.tensor("variance"),
        a.optional("gamma"),
        a.optional("beta"),
        eps=a.number("epsilon", 1e-5),
    )


def _instance_norm(a: Arguments) -> Tensor:
    return functional.instance_norm(
        a.tensor("x"), weight=a.optional("gamma"), bias=a.optional("beta"), eps=a.number("epsilon", 1e-5)
    )


def _layer_norm(a: Arguments) -> Tensor:
    x = a.tensor("x")
    axes = [axis % x.dim() for axis in a.ints("axes", list(range(x.dim())))]
    # `gamma` and `beta` have the normalized axes alone; torch's own layer norm takes only the last ones.
    shape = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
    mean = x.mean(axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + a.number("epsilon", 1e-5))
    gamma, beta = a.optional("gamma"), a.optional("beta")
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def _l2_norm(a: Arguments) -> Tensor:
    x = a.tensor("x")
    # Over the last three axes, whatever stands before them, by the specification.
    return x / torch.sqrt((x * x).sum((-3, -2, -1), keepdim=True) + a.number("epsilon", 1e-6))


def _local_response_norm(a: Arguments) -> Tensor:
    return functional.local_response_norm(
        a.tensor("x"), a.integer("size"), a.number("alpha", 1e-4), a.number("beta", 0.75), a.number("k", 1.0)
    )


OPERATORS = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "l2_pool": _l2_pool,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": lambda a: torch.einsum(a.text("equation"), *a.tensors("values")),
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "l2_norm": _l2_norm,
    "local_response_norm": _local_response_norm,
}

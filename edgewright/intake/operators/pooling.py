"""Windows over images: padding, pooling.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from edgewright.intake.builder import Builder, Op, Operand, Result, is_static, operand, refuse

__all__ = ["HANDLERS", "pad", "padding_of"]

_MAX_POOL: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVG_POOL: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def padding_of(
    op: Op, sizes: Sequence[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, with ``auto_pad`` resolved against the input's ``sizes``."""
    mode, rank = op.get("auto_pad", "NOTSET"), len(kernel)
    pads = op.get("pads") or [0] * (2 * rank)
    if mode == "VALID":
        return [0] * rank, [0] * rank
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        if not is_static(sizes):
            raise refuse(op, f"auto_pad {mode} with a free spatial size")
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        # The output has ceil(size / stride) elements; what is missing is split, the odd one to the end named.
        total = [max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in zip(sizes, strides, extents, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return (small, large) if mode == "SAME_UPPER" else (large, small)
    return list(pads[:rank]), list(pads[rank:])


def pad(b: Builder, x: Operand, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Operand:
    """Pad the last axes."""
    # torch counts pairs from the last axis on.
    pairs = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    return b.call(functional.pad, x, pairs, "constant", value)


def max_pool(b: Builder, op: Op) -> Result:
    """MaxPool; its optional Indices count through the whole tensor, torch's through one channel."""
    x, rank, kernel, strides, dilations, (before, after) = _window(b, op, _MAX_POOL)
    ceil, symmetric = bool(op.get("ceil_mode", 0)), before == after
    # torch pads both ends alike, and by half a window at most.
    if not symmetric or any(2 * p > k for p, k in zip(before, kernel, strict=True)):
        # Padding must not win: it is the least that the type holds.
        lowest = -float("inf") if b.dtype(x).is_floating_point else torch.iinfo(b.dtype(x)).min
        x, before = pad(b, x, before, after, lowest), [0] * rank
    if len(op.outputs) == 1:
        return b.call(_MAX_POOL[rank], x, kernel, strides, before, dilations, ceil)
    if not is_static(b.shape(x)) or not symmetric:
        raise refuse(op, "output Indices with free sizes or asymmetric padding")
    arguments = (x, kernel, strides, before, dilations, ceil, True)
    values, within = b.several(2, _MAX_POOL[rank], *arguments)
    return values, b.call(torch.add, _ordered(op, within, b), _channel_starts(b.shape(x)))


def _channel_starts(sizes: Sequence[int]) -> torch.Tensor:
    cells = int(torch.tensor(sizes[2:]).prod())
    return (torch.arange(sizes[0] * sizes[1]) * cells).reshape(sizes[0], sizes[1], *[1] * (len(sizes) - 2))


def _ordered(op: Op, within: Operand, b: Builder) -> Operand:
    """Positions counted column by column where storage_order asks for it."""
    if not op.get("storage_order", 0):
        return within
    height, width = b.shape(operand(op, 0))[2:]
    row = b.call(torch.div, within, width, rounding_mode="floor")
    return b.call(torch.add, b.call(torch.mul, b.call(torch.remainder, within, width), height), row)


def average_pool(b: Builder, op: Op) -> Result:
    """AveragePool; a window's padding is left out of the mean unless count_include_pad says otherwise."""
    x, rank, kernel, strides, dilations, (before, after) = _window(b, op, _AVG_POOL)
    ceil, counted = bool(op.get("ceil_mode", 0)), bool(op.get("count_include_pad", 0))
    if any(d != 1 for d in dilations):
        return _dilated_average(b, op, x, kernel, strides, dilations, before, after)
    # Where torch means the same: equal padding, of half a window at most.
    fits = before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True))
    if fits and not (ceil and counted):
        return b.call(_AVG_POOL[rank], x, kernel, strides, before, ceil, counted)
    if not is_static(b.shape(x)[2:]):
        raise refuse(op, "asymmetric padding with a free spatial size")
    # The mean of the padded input, divided by the share of each window that lies inside: a constant.
    extra = _ceil_extra(b.shape(x)[2:], kernel, strides, before, after) if ceil else [0] * rank
    end = [a + e for a, e in zip(after, extra, strict=True)]
    mean = b.call(_AVG_POOL[rank], pad(b, x, before, end), kernel, strides)
    ones = torch.ones((1, 1, *b.shape(x)[2:]), dtype=b.dtype(x))
    # Counted padding lies inside, what ceil_mode adds never does.
    inside = pad(b, ones, before, after, 1.0 if counted else 0.0)
    share = b.call(_AVG_POOL[rank], pad(b, inside, [0] * rank, extra), kernel, strides)
    return b.call(torch.div, mean, share)


def _window_sums(
    b: Builder, op: Op, x: Operand, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Operand:
    """Sums over windows with gaps: a convolution of each channel with ones."""
    channels = b.shape(x)[1]
    ones = torch.ones((channels, 1, *kernel), dtype=b.dtype(x))
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(kernel)]
    return b.call(function, x, ones, None, list(strides), [0] * len(kernel), list(dilations), channels)


def _dilated_average(
    b: Builder,
    op: Op,
    x: Operand,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    before: list[int],
    after: list[int],
) -> Operand:
    """AveragePool over windows with gaps: sums of the values over sums of what lies inside."""
    sizes = b.shape(x)[2:]
    if not is_static(sizes):
        raise refuse(op, "dilations with a free spatial size")
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    extra = _ceil_extra(sizes, spans, strides, before, after) if op.get("ceil_mode", 0) else [0] * len(kernel)
    end = [a + e for a, e in zip(after, extra, strict=True)]
    ones = torch.ones((1, b.shape(x)[1], *sizes), dtype=b.dtype(x))
    inside = pad(b, ones, before, after, float(bool(op.get("count_include_pad", 0))))
    count = _window_sums(b, op, pad(b, inside, [0] * len(kernel), extra), kernel, strides, dilations)
    return b.call(torch.div, _window_sums(b, op, pad(b, x, before, end), kernel, strides, dilations), count)


def _ceil_extra(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> list[int]:
    """Cells beyond the end so that the last, partial window fits; none starts in the end padding."""
    extra = []
    for n, k, s, p, q in zip(sizes, kernel, strides, before, after, strict=True):
        windows = -(-(n + p + q - k) // s) + 1
        # One that would start in the end padding is left out, as torch does.
        if (windows - 1) * s >= n + p:
            windows -= 1
        extra.append(max((windows - 1) * s + k - (n + p + q), 0))
    return extra


def _window(b: Builder, op: Op, known: dict[int, Any]) -> tuple[Any, ...]:
    x = operand(op, 0)
    rank = b.rank(x) - 2
    if rank not in known:
        raise refuse(op, f"{rank} spatial axes; 1 to 3 are known")
    kernel = list(op.get("kernel_shape"))
    strides, dilations = list(op.get("strides") or [1] * rank), list(op.get("dilations") or [1] * rank)
    return x, rank, kernel, strides, dilations, padding_of(op, b.shape(x)[2:], kernel, strides, dilations)


def global_average_pool(b: Builder, op: Op) -> Result:
    """GlobalAveragePool."""
    x = operand(op, 0)
    if b.rank(x) == 4:
        return b.call(functional.adaptive_avg_pool2d, x, 1)
    return b.call(torch.mean, x, list(range(2, b.rank(x))), True)


def global_max_pool(b: Builder, op: Op) -> Result:
    """GlobalMaxPool."""
    x = operand(op, 0)
    return b.call(torch.amax, x, list(range(2, b.rank(x))), True)


def lp_pool(b: Builder, op: Op) -> Result:
    """LpPool and GlobalLpPool: (sum |x|^p)^(1/p) over a window, by the average of the powers."""
    x, p = operand(op, 0), op.get("p", 2)
    powers = b.call(torch.pow, b.call(torch.abs, x), p)
    if op.kind == "GlobalLpPool":
        total = b.call(torch.sum, powers, list(range(2, b.rank(x))), True)
        return b.call(torch.pow, total, 1.0 / p)
    x, rank, kernel, strides, dilations, (before, after) = _window(b, op, _AVG_POOL)
    if op.get("ceil_mode", 0):
        raise refuse(op, "ceil_mode")
    if any(d != 1 for d in dilations):
        total = _window_sums(b, op, pad(b, powers, before, after), kernel, strides, dilations)
        return b.call(torch.pow, total, 1.0 / p)
    mean = b.call(_AVG_POOL[rank], pad(b, powers, before, after), kernel, strides)
    cells = float(torch.tensor(kernel).prod())
    return b.call(torch.pow, b.call(torch.mul, mean, cells), 1.0 / p)


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "GlobalLpPool": lp_pool,
}

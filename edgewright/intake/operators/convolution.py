"""Convolution, normalization and dense layers: what training and pruning need as layers, not functions.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgewright.intake.builder import Builder, Op, Operand, Result, is_static, operand, refuse, tensor
from edgewright.intake.operators.pooling import pad, padding_of

__all__ = ["HANDLERS", "layer_name", "linear"]

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def layer_name(op: Op) -> str:
    """The layer's name in the source where its weight still bears it (``conv1.weight``), else the node's."""
    # The first input is data; of the others the weight's name goes before the bias's.
    for name in op.input_names[1:]:
        owner, _, leaf = name.rpartition(".")
        if owner and leaf in {"weight", "bias"}:
            return owner
    return (op.name or op.outputs[0]).strip("/").replace("/", "_").replace(".", "_")


def conv(b: Builder, op: Op) -> Result:
    """Conv: a layer where the weight is a constant."""
    x, weight = operand(op, 0), operand(op, 1)
    rank = b.rank(x) - 2
    if rank not in _CONV:
        raise refuse(op, f"{rank} spatial axes; 1 to 3 are known")
    shape = b.shape(weight)
    kernel = op.get("kernel_shape") or shape[2:]
    strides, dilations = op.get("strides") or [1] * rank, op.get("dilations") or [1] * rank
    groups, bias = op.get("group", 1), op.input(2)
    # auto_pad depends on the input's size, so it is resolved here.
    before, after = padding_of(op, b.shape(x)[2:], kernel, strides, dilations)
    # torch pads both ends alike: other padding goes before the layer.
    if before != after:
        x, before = pad(b, x, before, after), [0] * rank
    # A weight that data make cannot be a layer's own.
    if not isinstance(weight, torch.Tensor) or isinstance(bias, torch.fx.Node):
        function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
        return b.call(function, x, weight, bias, list(strides), list(before), list(dilations), groups)
    layer = _CONV[rank](
        shape[1] * groups,
        shape[0],
        tuple(kernel),
        tuple(strides),
        tuple(before),
        tuple(dilations),
        groups,
        bias is not None,
        dtype=weight.dtype,
    )
    return b.module(layer_name(op), _loaded(layer, weight=weight, bias=bias), x)


def conv_transpose(b: Builder, op: Op) -> Result:
    """ConvTranspose: ``output_shape`` and ``auto_pad`` become explicit padding."""
    x, weight, bias = operand(op, 0), tensor(op, 1), op.input(2)
    rank = b.rank(x) - 2
    if rank not in _CONV_TRANSPOSE:
        raise refuse(op, f"{rank} spatial axes; 1 to 3 are known")
    kernel = list(op.get("kernel_shape") or weight.shape[2:])
    strides, dilations = list(op.get("strides") or [1] * rank), list(op.get("dilations") or [1] * rank)
    extra, groups = list(op.get("output_padding") or [0] * rank), op.get("group", 1)
    # Sizes without padding: (n - 1) * stride + the kernel's extent + output_padding.
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(b.shape(x)[2:], strides, kernel, dilations, extra, strict=True)
    ]
    before, after = _transposed_pads(op, full, b.shape(x)[2:], strides)
    layer = _CONV_TRANSPOSE[rank](
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(kernel),
        tuple(strides),
        0,
        tuple(extra),
        groups,
        bias is not None,
        tuple(dilations),
        dtype=weight.dtype,
    )
    # Equal padding is the layer's own; other padding is cut off its output.
    if before == after:
        layer.padding, before, after = tuple(before), [0] * rank, [0] * rank
    # torch's own condition; checked here for a message that names the operator.
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise refuse(op, "output_padding not smaller than stride or dilation")
    y = b.module(layer_name(op), _loaded(layer, weight=weight, bias=bias), x)
    if any(before) or any(after):
        y = pad(b, y, [-p for p in before], [-p for p in after])
    return y


def _transposed_pads(
    op: Op, full: Sequence[Any], sizes: Sequence[Any], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    rank, wanted, mode = len(full), op.get("output_shape"), op.get("auto_pad", "NOTSET")
    if wanted is None and mode not in {"SAME_UPPER", "SAME_LOWER"}:
        pads = [0] * (2 * rank) if mode == "VALID" else op.get("pads") or [0] * (2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    if not is_static(full):
        raise refuse(op, "output_shape or auto_pad with a free spatial size")
    # output_shape may name batch and channels, too; SAME gives stride times the input's size.
    goal = wanted[-rank:] if wanted else [n * s for n, s in zip(sizes, strides, strict=True)]
    total = [f - g for f, g in zip(full, goal, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    # The odd cell goes to the end that the mode names, as the specification computes it.
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def batch_normalization(b: Builder, op: Op) -> Result:
    """BatchNormalization, kept as a layer so that it can be re-estimated after pruning."""
    x = operand(op, 0)
    if op.get("training_mode", 0):
        return _by_batch_statistics(b, op)
    scale, shift, mean, variance = (tensor(op, i) for i in range(1, 5))
    if b.rank(x) not in _BATCH_NORM:
        raise refuse(op, f"an input of {b.rank(x)} axes; 2 to 5 are known")
    # torch's momentum is the share of the new statistics, ONNX's that of the old ones.
    layer = _BATCH_NORM[b.rank(x)](len(scale), eps=op.get("epsilon", 1e-5), momentum=1 - op.get("momentum", 0.9))
    layer = layer.to(scale.dtype)
    _loaded(layer, weight=scale, bias=shift, running_mean=mean, running_var=variance)
    return b.module(layer_name(op), layer, x)


def _by_batch_statistics(b: Builder, op: Op) -> Result:
    """BatchNormalization as in training: by the batch's own mean and variance; the running ones are outputs."""
    x, scale, shift, mean, variance = (operand(op, i) for i in range(5))
    axes = [i for i in range(b.rank(x)) if i != 1]
    own_mean = b.call(torch.mean, x, axes, True)
    centred = b.call(torch.sub, x, own_mean)
    own_variance = b.call(torch.mean, b.call(torch.mul, centred, centred), axes, True)
    inverse = b.call(torch.rsqrt, b.call(torch.add, own_variance, op.get("epsilon", 1e-5)))
    # (C,) as (C, 1, ...), so that it lies on the channels.
    wide = [-1] + [1] * (b.rank(x) - 2)
    y = b.call(torch.mul, b.call(torch.mul, centred, inverse), b.call(torch.reshape, scale, wide))
    y, momentum = b.call(torch.add, y, b.call(torch.reshape, shift, wide)), op.get("momentum", 0.9)
    running = [
        b.call(
            torch.add,
            b.call(torch.mul, old, momentum),
            b.call(torch.mul, b.call(torch.reshape, own, [-1]), 1 - momentum),
        )
        for old, own in ((mean, own_mean), (variance, own_variance))
    ]
    return (y, *running)[: len(op.outputs)]


def instance_normalization(b: Builder, op: Op) -> Result:
    """InstanceNormalization."""
    x, scale, shift = (operand(op, i) for i in range(3))
    return b.call(functional.instance_norm, x, weight=scale, bias=shift, eps=op.get("epsilon", 1e-5))


def layer_normalization(b: Builder, op: Op) -> Result:
    """LayerNormalization; the optional mean and inverse deviation are computed when they are asked for."""
    x, scale, shift = operand(op, 0), operand(op, 1), op.input(2)
    rank = b.rank(x)
    axis = op.get("axis", -1) % rank
    sizes = b.shape(x)[axis:]
    if not is_static(sizes):
        raise refuse(op, "normalizes over the batch axis")
    eps = op.get("epsilon", 1e-5)
    axes = list(range(axis, rank))
    if len(op.outputs) == 1:
        # Weights may be broadcast in ONNX; torch wants the normalized shape itself.
        shaped = [w if w is None else b.call(torch.broadcast_to, w, list(sizes)) for w in (scale, shift)]
        return b.call(functional.layer_norm, x, list(sizes), *shaped, eps)
    mean = b.call(torch.mean, x, axes, True)
    centred = b.call(torch.sub, x, mean)
    variance = b.call(torch.mean, b.call(torch.mul, centred, centred), axes, True)
    inverse = b.call(torch.rsqrt, b.call(torch.add, variance, eps))
    y = b.call(torch.mul, b.call(torch.mul, centred, inverse), scale)
    y = y if shift is None else b.call(torch.add, y, shift)
    return (y, mean, inverse)[: len(op.outputs)]


def group_normalization(b: Builder, op: Op) -> Result:
    """GroupNormalization; up to opset 20 scale and bias stand for groups, from 21 on for channels."""
    x, scale, shift = operand(op, 0), operand(op, 1), operand(op, 2)
    groups, channels = op.get("num_groups"), b.shape(x)[1]
    if op.opset < 21 and b.shape(scale)[0] != channels:
        scale, shift = (b.call(torch.repeat_interleave, w, channels // groups) for w in (scale, shift))
    return b.call(functional.group_norm, x, groups, scale, shift, op.get("epsilon", 1e-5))


def gemm(b: Builder, op: Op) -> Result:
    """Gemm: a Linear layer where B and C are constants."""
    a, c = operand(op, 0), op.input(2)
    alpha, beta = op.get("alpha", 1.0), op.get("beta", 1.0)
    # transA and transB are undone first: a Linear keeps its weight as (outputs, inputs).
    if op.get("transA", 0):
        a = b.call(torch.transpose, a, 0, 1)
    weight = operand(op, 1)
    if not op.get("transB", 0):
        weight = b.call(torch.transpose, weight, 0, 1)
    if isinstance(weight, torch.Tensor) and not isinstance(c, torch.fx.Node) and weight.is_floating_point():
        outputs = weight.shape[0]
        bias = None if c is None else torch.as_tensor(c) * beta
        # One number for all, or one for each column: (M, 1) is one for each row, also where M is as many.
        if bias is None or bias.numel() == 1 or tuple(bias.shape) in {(outputs,), (1, outputs)}:
            full = None if bias is None else bias.reshape(-1).expand(outputs)
            return linear(b, layer_name(op), a, weight * alpha if alpha != 1 else weight, full)
    y = b.call(torch.matmul, a, b.call(torch.transpose, weight, 0, 1))
    y = y if alpha == 1 else b.call(torch.mul, y, alpha)
    if c is None:
        return y
    return b.call(torch.add, y, c if beta == 1 else b.call(torch.mul, c, beta))


def linear(b: Builder, name: str, x: Operand, weight: torch.Tensor, bias: torch.Tensor | None) -> Operand:
    """``x @ weight.T + bias`` as a layer; ``weight`` (outputs, inputs)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
    return b.module(name, _loaded(layer, weight=weight, bias=bias), x)


def matmul(b: Builder, op: Op) -> Result:
    """MatMul: a Linear layer without bias where the right side is a constant matrix; `onnx_graph` adds the bias."""
    left, right = operand(op, 0), operand(op, 1)
    if isinstance(right, torch.Tensor) and right.ndim == 2 and right.is_floating_point() and b.rank(left) >= 2:
        return linear(b, layer_name(op), left, right.t(), None)
    return b.call(torch.matmul, left, right)


def dropout(b: Builder, op: Op) -> Result:
    """Dropout, kept as a layer for fine-tuning; in inference it does nothing."""
    x, share = operand(op, 0), op.input(1)
    ratio = float(share) if isinstance(share, torch.Tensor) else op.get("ratio", 0.5)
    training = op.input(2)
    # A ratio of 0 drops nothing even in training.
    if training is not None and not (isinstance(training, torch.Tensor) and (ratio == 0 or not bool(training))):
        return _seeded_dropout(b, op, x, ratio)
    y = b.module(layer_name(op), nn.Dropout(ratio), x)
    return (y, b.call(torch.ones_like, x, dtype=torch.bool))[: len(op.outputs)] if len(op.outputs) > 1 else y


def _seeded_dropout(b: Builder, op: Op, x: Operand, ratio: float) -> Result:
    """Dropout in training with a seed: ONNX's reference draws the same mask each time, so it is a constant."""
    training, seed, shape = op.input(2), op.get("seed"), b.shape(x)
    if seed is None or not isinstance(training, torch.Tensor) or not is_static(shape):
        raise refuse(op, "training_mode without a seed, or with free sizes: what it leaves out is random")
    mask = torch.from_numpy(np.random.RandomState(seed).uniform(0, 1.0, shape) >= ratio)
    scale = torch.where(mask, 1 / (1 - ratio), 0.0).to(b.dtype(x))
    return (b.call(torch.mul, x, scale), mask)[: len(op.outputs)]


def local_response_normalization(b: Builder, op: Op) -> Result:
    """LRN across channels: torch's own asks for the sizes of its input, which Core ML's converter cannot read."""
    size, x = op.get("size"), operand(op, 0)
    alpha, beta, bias = op.get("alpha", 1e-4), op.get("beta", 0.75), op.get("bias", 1.0)
    if size % 2 == 0:
        raise refuse(op, "an even size")
    if b.rank(x) != 4:
        return b.call(functional.local_response_norm, x, size, alpha, beta, bias)
    # Channels as depth: avg_pool3d slides over them alone.
    squares = b.call(torch.unsqueeze, b.call(torch.square, x), 1)
    # The mean divides by the whole size, also at the ends: hence padding with zeros.
    padded = b.call(functional.pad, squares, (0, 0, 0, 0, size // 2, size // 2))
    mean = b.call(torch.squeeze, b.call(functional.avg_pool3d, padded, (size, 1, 1), stride=1), 1)
    scale = b.call(torch.pow, b.call(torch.add, b.call(torch.mul, mean, alpha), bias), beta)
    return b.call(torch.div, x, scale)


def _loaded(layer: nn.Module, **tensors: Any) -> nn.Module:
    state = {k: v.detach().clone().contiguous() for k, v in tensors.items() if v is not None}
    # strict=False for what ONNX does not have, as num_batches_tracked; assign keeps the dtype of the file.
    layer.load_state_dict(state, strict=False, assign=True)
    for parameter in layer.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return layer


HANDLERS = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "GroupNormalization": group_normalization,
    "Gemm": gemm,
    "MatMul": matmul,
    "Dropout": dropout,
    "LRN": local_response_normalization,
}

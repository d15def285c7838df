"""Transposed convolutions as the plain one (no padding, dilation or groups), and what is cut or filled after it.

Imports torch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

__all__ = [
    "CONVOLUTION_FORMS",
    "adds_nothing",
    "each_axis",
    "has_plain_transpose",
    "is_plainly_padded",
    "transposed_layers_as_operations",
]

Tensor = torch.Tensor
Sizes = Sequence[int]
_LAYERS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def has_plain_transpose(layer: nn.Module) -> bool:
    """Whether a converter takes the layer as it is: two axes, one group, nothing dilated or added, plainly padded."""
    return (
        isinstance(layer, nn.ConvTranspose2d)
        and layer.groups == 1
        and set(layer.dilation) == {1}
        and set(layer.output_padding) == {0}
        and is_plainly_padded(layer.kernel_size, layer.stride, each_axis(layer.padding, 2))
    )


def is_plainly_padded(kernel: Sizes, stride: Sizes, padding: Sizes) -> bool:
    """Whether it is one of the two ways of TensorFlow: no padding, or the input's size times the stride comes out."""
    sides = list(zip(kernel, stride, padding, strict=True))
    return not any(padding) or all(size - 2 * pad == step for size, step, pad in sides)


def adds_nothing(layer: nn.Module) -> bool:
    """Whether a transposed convolution's result ends where its input's does: no ``output_padding``."""
    return not any(each_axis(layer.output_padding, 1))


def transposed_layers_as_operations(
    module: fx.GraphModule, is_taken: Callable[[nn.Module], bool] = has_plain_transpose
) -> None:
    """Make the layers that a converter does not take operations of ATen on their weights, in place."""
    for node in list(module.graph.nodes):
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, _LAYERS) or is_taken(layer):
            continue
        name = f"conv_transpose{layer.weight.dim() - 2}d"
        operation = getattr(torch.ops.aten, name)
        # ATen calls the overload `default` for one axis, and `input` for two and three.
        operation = operation.input if hasattr(operation, "input") else operation.default
        with module.graph.inserting_before(node):
            weight = module.graph.get_attr(f"{node.target}.weight")
            bias = None if layer.bias is None else module.graph.get_attr(f"{node.target}.bias")
            settings = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
            call = module.graph.call_function(operation, (node.args[0], weight, bias, *map(_listed, settings)))
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = (1,),
    padding: Sizes = (0,),
    output_padding: Sizes = (0,),
    groups: int = 1,
    dilation: Sizes = (1,),
) -> Tensor:
    """The operation's own arguments; what lies past the plain result holds the bias alone."""
    axes = weight.dim() - 2
    if x.dim() == axes + 1:  # (C, ...) is a batch of one
        batched = _conv_transpose(x.unsqueeze(0), weight, bias, stride, padding, output_padding, groups, dilation)
        return batched.squeeze(0)
    stride, padding, output_padding, dilation = (
        each_axis(v, axes) for v in (stride, padding, output_padding, dilation)
    )
    # A dilated kernel is a larger one with zeros between its places.
    weight = _dilated(weight, dilation)
    # A group is a convolution of its own, from its channels of the input by its rows of the weight.
    each = x.shape[1] // groups
    group_outputs = [
        _plain(x.narrow(1, n * each, each), weight.narrow(0, n * each, each), stride) for n in range(groups)
    ]
    full = group_outputs[0] if groups == 1 else torch.cat(group_outputs, 1)
    for axis in range(axes):
        # Padding is cut from both ends of the plain result; output_padding may reach past its far end.
        kernel = weight.shape[2 + axis]
        size = (x.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + kernel + output_padding[axis]
        have = full.shape[2 + axis] - padding[axis]
        if have < size:
            # pad counts axes from the last one.
            full = functional.pad(full, [0, 0] * (axes - 1 - axis) + [0, size - have])
        full = full.narrow(2 + axis, padding[axis], size)
    return full if bias is None else full + bias.reshape(1, -1, *[1] * axes)


def _plain(x: Tensor, weight: Tensor, stride: Sizes) -> Tensor:
    """With two axes, or with three as the plain convolution of what is spread out with zeros."""
    if weight.dim() == 3:
        return functional.conv_transpose2d(x.unsqueeze(2), weight.unsqueeze(2), stride=(1, *stride)).squeeze(2)
    if weight.dim() == 4:
        return functional.conv_transpose2d(x, weight, stride=tuple(stride))
    spread = _spread(x, stride)
    # With stride 1 the transpose is a plain convolution: k - 1 zeros on each side, the kernel turned round,
    # input and output channels swapped.
    edges = [n - 1 for size in reversed(weight.shape[2:]) for n in (size, size)]
    return functional.conv3d(functional.pad(spread, edges), weight.flip(2, 3, 4).transpose(0, 1))


def _spread(x: Tensor, stride: Sizes) -> Tensor:
    """Zeros between neighbours on the last axes."""
    for axis, step in zip(range(x.dim() - len(stride), x.dim()), stride, strict=True):
        # Behind the last element come no zeros, so the end of the interleaved axis is cut.
        if step > 1:
            size = x.shape[axis]
            zeros = [x.new_zeros(()).expand_as(x)] * (step - 1)
            x = torch.stack([x, *zeros], axis + 1).flatten(axis, axis + 1).narrow(axis, 0, (size - 1) * step + 1)
    return x


def _dilated(weight: Tensor, dilation: Sizes) -> Tensor:
    return _spread(weight, dilation) if math.prod(dilation) > 1 else weight


def each_axis(value: Any, axes: int) -> list[int]:
    """A setting for each axis, of one that may be given for all."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * axes if len(values) == 1 else values


CONVOLUTION_FORMS: dict[str, Callable[..., Any]] = {
    "aten.conv_transpose1d.default": _conv_transpose,
    "aten.conv_transpose2d.input": _conv_transpose,
    "aten.conv_transpose3d.input": _conv_transpose,
}
"""By the operation's name: functions of its own arguments."""

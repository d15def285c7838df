"""A torch graph in the form that litert-torch converts: fixed sizes, operations that it knows. Imports torch."""

import copy
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.export.batch_axes import with_a_batch
from edgewright.export.convolution_forms import (
    CONVOLUTION_FORMS,
    each_axis,
    is_plainly_padded,
    transposed_layers_as_operations,
)
from edgewright.export.few_axes import with_few_axes
from edgewright.export.lowering import has_factor, is_outer, lowered
from edgewright.export.named_operations import with_named_operations
from edgewright.export.narrow_integers import with_wide_arithmetic
from edgewright.export.pooling_forms import has_own_divisor, is_ceiling, tells_places
from edgewright.export.real_pairs import with_real_pairs
from edgewright.export.refusal import other_ways
from edgewright.export.resize_forms import has_other_scale, is_uneven_nearest
from edgewright.export.scatter_forms import SCATTER_FORMS, has_scatter_form
from edgewright.export.static_graph import NodeValues, static_graph
from edgewright.intake.module_paths import free_name

__all__ = ["graph_for_litert", "in_float64", "operation_stem", "refuse_complex"]

_MAX_AXES = 5  # of the kernels that move, compare and broadcast
_NOT_TAKEN = {
    *("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "sort", "argsort"),
    # Taken, and not accurate near zero: see `special_functions`.
    *("log1p", "special_log1p", "expm1", "special_expm1", "sinh", "asinh", "arcsinh", "acosh", "arccosh", "atanh"),
    *("arctanh", "softplus", "log_sigmoid", "logaddexp", "logaddexp2", "special_xlog1py"),
    *("erfc", "special_erfc", "erfinv", "special_erfinv", "exp2", "special_exp2"),
    *("bitwise_xor", "__xor__", "logical_xor", "__lshift__", "__rshift__"),
    *("bitwise_left_shift", "bitwise_right_shift", "bitwise_not"),
}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "scaled_dot_product_attention"}
_ORDERS = {"reshape", "view", "transpose", "permute", "slice", "clone", "contiguous", "mul"}
_MAX_COPIES = 128
_WINDOWED = {
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
}


def graph_for_litert(
    module: fx.GraphModule, examples: tuple[torch.Tensor, ...], refused: Collection[str] = ()
) -> fx.GraphModule:
    """An equal graph for inputs of the examples' shapes; ``refused`` are operations that the converter did not take."""
    module = with_real_pairs(static_graph(with_named_operations(module), examples), examples)
    module = with_wide_arithmetic(with_a_batch(module, examples), examples)
    # What follows works in place, and the caller comes again with the same module and more refused.
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    transposed_layers_as_operations(module)
    _pad_by_numbers(module)
    _mix_products_in_the_plane(module)

    def is_known(node: fx.Node, values: NodeValues) -> bool:
        name = str(node.target)
        stem = operation_stem(name)
        if name in CONVOLUTION_FORMS:
            return _is_plain_transpose(node, values)
        if stem in _WINDOWED:
            output = values.env[node]
            output = output[0] if isinstance(output, (tuple, list)) else output
            input_shape = values.env[node.args[0]].shape  # type: ignore[index]
            # Only where sizes divide are all windows of one size.
            return "max" not in stem and all(
                have % want == 0 for have, want in zip(input_shape, output.shape, strict=True)
            )
        if stem in {"pad", "constant_pad_nd"}:
            return all(not isinstance(n, int) or n >= 0 for n in node.args[1])  # type: ignore[union-attr]
        if stem == "matmul" and is_outer(*(values.env[n] for n in node.args)):  # type: ignore[index]
            return False  # the converter turns one operand and then finds that their sizes do not match
        if stem == "topk":
            return _is_plain_topk(node, values)
        if stem in {"split", "split_with_sizes", "chunk"} and len(values.env[node]) == 1:
            return False
        if has_own_divisor(node) or is_ceiling(node) or has_factor(node) or tells_places(node):
            return False
        if has_other_scale(node, values) or is_uneven_nearest(node, values) or has_scatter_form(node, values):
            return False
        return stem not in _NOT_TAKEN and stem not in refused

    module = lowered(module, examples, is_known, SCATTER_FORMS)
    # Once more: kernels that were spread or turned are constants.
    module = static_graph(module, examples)
    values = NodeValues.of(module, examples)
    _without_expansions(module, values)
    _copy_shared_heads(module, values)
    return with_few_axes(module, examples, _MAX_AXES)


def _mix_products_in_the_plane(module: fx.GraphModule) -> None:
    """A convolution (N, C, L) of kernel 1 on a product of matrices is one of two axes, (N, C, L, 1).

    The converter makes it a product as well, and joins the two to one of a rank that its own check refuses.
    """
    for node in list(module.graph.nodes):
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv1d) or operation_stem(str(node.args[0].target)) not in _PRODUCTS:
            continue
        if (
            layer.kernel_size != (1,)
            or layer.stride != (1,)
            or layer.groups != 1
            or layer.padding not in {(0,), "valid"}
        ):
            continue
        # Layers share their weights with the given module.
        # On the meta device no weights are drawn, which would be thrown away at once.
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(layer.weight.detach().unsqueeze(-1), requires_grad=False)
        plain.bias = layer.bias
        node.target = free_name(module, f"{str(node.target).replace('.', '_')}_in_the_plane")
        module.add_submodule(node.target, plain)
        with module.graph.inserting_before(node):
            node.args = (module.graph.call_function(torch.ops.aten.unsqueeze.default, (node.args[0], -1)),)
        with module.graph.inserting_after(node):
            line = module.graph.call_function(torch.ops.aten.squeeze.dim, (node, -1))
        # Not in the squeeze itself, which reads the convolution.
        node.replace_all_uses_with(line, delete_user_cb=lambda user, line=line: user is not line)
    module.recompile()


def _pad_by_numbers(module: fx.GraphModule) -> None:
    """Padding that a convolution names ("same") is a number for each side: the converter takes the letters for them."""
    for node in list(module.graph.nodes):
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.modules.conv._ConvNd) or not isinstance(layer.padding, str):
            continue
        sides = [0] * 2 * len(layer.kernel_size)
        if layer.padding == "same":
            # Two sides of each axis, the last axis first, as functional.pad takes them.
            sides = layer._reversed_padding_repeated_twice
        # Layers share their weights with the given module, so this one is a copy.
        plain = copy.copy(layer)
        plain.padding = tuple(min(sides[2 * axis : 2 * axis + 2]) for axis in reversed(range(len(layer.kernel_size))))
        # Sides differ for an even kernel: what both have the layer pads, what one has more stands before it.
        rest = [side - min(sides[place_ - place_ % 2 : place_ - place_ % 2 + 2]) for place_, side in enumerate(sides)]
        path = free_name(module, f"{str(node.target).replace('.', '_')}_padded")
        module.add_submodule(path, plain)
        node.target = path
        if any(rest):
            with module.graph.inserting_before(node):
                padded = module.graph.call_function(torch.ops.aten.constant_pad_nd.default, (node.args[0], rest))
            node.replace_input_with(node.args[0], padded)
    module.recompile()


def _without_expansions(module: fx.GraphModule, values: NodeValues) -> None:
    """What is expanded to the shape of the other operand broadcasts by itself; the converter takes it apart wrongly."""
    for node in list(module.graph.nodes):
        if str(node.target) not in {"aten.expand.default", "aten.expand_as.default"}:
            continue
        shape = values.env[node].shape
        for user in list(node.users):
            others = [n for n in user.all_input_nodes if n is not node and isinstance(values.env[n], torch.Tensor)]
            pointwise = isinstance(user.target, torch._ops.OpOverload) and torch.Tag.pointwise in user.target.tags
            if pointwise and any(values.env[n].shape == shape for n in others):
                user.replace_input_with(node, node.args[0])
    module.graph.eliminate_dead_code()
    module.recompile()


def _copy_shared_heads(module: fx.GraphModule, values: NodeValues) -> None:
    """Keys and values that heads share stand once for each head.

    litert-torch 0.10 multiplies by expanded ones wrongly: seen off by a third to a half of the largest magnitude.
    """
    for node in list(module.graph.nodes):
        if str(node.target) != "aten.expand.default" or not _enters_a_product(node):
            continue
        given, shape = node.args[0], values.env[node].shape
        sizes = (1,) * (len(shape) - values.env[given].dim()) + tuple(values.env[given].shape)
        grown = [axis for axis, (have, want) in enumerate(zip(sizes, shape, strict=True)) if have != want]
        if math.prod(shape[axis] for axis in grown) > _MAX_COPIES:
            continue
        with module.graph.inserting_before(node):
            # With the axes of one that the expansion grows, so that each can be repeated in its place.
            copied: Any = module.graph.call_function(torch.ops.aten.reshape.default, (given, list(sizes)))
            for axis in grown:
                copied = module.graph.call_function(torch.ops.aten.cat.default, ([copied] * shape[axis], axis))
        node.replace_all_uses_with(copied)
        values.env[copied] = values.env[node]
    module.graph.eliminate_dead_code()
    module.recompile()


def _enters_a_product(node: fx.Node) -> bool:
    """Whether a matrix product or an attention takes it, as it is or in another order."""
    pending, seen = list(node.users), set[fx.Node]()
    while pending:
        user = pending.pop()
        if operation_stem(str(user.target)) in _PRODUCTS:
            return True
        if user not in seen and operation_stem(str(user.target)) in _ORDERS:
            seen.add(user)
            pending.extend(user.users)
    return False


def refuse_complex(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> None:
    """Refuse a graph with complex values, which LiteRT's files do not hold.

    Raises:
        UnsupportedError: there is one; names the operator that gives the first.
    """
    values = NodeValues.of(module, examples)
    for node in module.graph.nodes:
        value = values.env.get(node)
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise UnsupportedError(
                f"LiteRT has no complex numbers: operator {node.target} (node '{node.name}') gives them; write the "
                f"Fourier transform as products with cosines and sines; {other_ways('ios', 'edge_device')}"
            )


def in_float64(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> str:
    """What to say of the first operation that computes in float64, for which LiteRT has few kernels; "" without one."""
    values = NodeValues.of(module, examples)
    for node in module.graph.nodes:
        operands = [values.env.get(operand) for operand in node.all_input_nodes]
        if node.op == "call_function" and any(getattr(o, "dtype", None) is torch.float64 for o in operands):
            return f"operator {node.target} (node '{node.name}') is in float64: compute it in float32, by .float()"
    return ""


def operation_stem(name: str) -> str:
    """An operation's name without its namespace and overload."""
    return name.removeprefix("torch.ops.").removeprefix("aten.").partition(".")[0]


def _is_plain_topk(node: fx.Node, values: NodeValues) -> bool:
    """Of the last axis, the largest, and somebody reads where they stood: else the converter makes a sort of it."""
    given = {
        "dim": -1,
        "largest": True,
        **dict(zip(("x", "k", "dim", "largest"), node.args, strict=False)),
        **node.kwargs,
    }
    is_last = given["dim"] in {-1, values.env[node.args[0]].dim() - 1}  # type: ignore[index]
    return bool(given["largest"]) and is_last and any(user.args[1] == 1 for user in node.users)


def _is_plain_transpose(node: fx.Node, values: NodeValues) -> bool:
    if str(node.target) != "aten.conv_transpose2d.input":
        return False
    given: dict[int, Any] = dict(enumerate(node.args))
    if any(given.get(5) or []) or given.get(6, 1) != 1 or not set(given.get(7) or [1]) <= {1}:
        return False
    kernel = values.env[given[1]].shape[2:]
    return is_plainly_padded(kernel, each_axis(given.get(3) or 1, 2), each_axis(given.get(4) or 0, 2))

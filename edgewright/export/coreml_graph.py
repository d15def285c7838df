"""A torch graph in the form that coremltools converts: fixed sizes, operations that it knows, few axes.

Runs in a child process that has imported coremltools.
"""

import torch
from torch import fx, nn

from edgewright.export.batch_axes import with_a_batch
from edgewright.export.convolution_forms import adds_nothing, transposed_layers_as_operations
from edgewright.export.few_axes import with_few_axes
from edgewright.export.lowering import has_factor, lowered, recurrent_layers_as_operations
from edgewright.export.named_operations import with_named_operations
from edgewright.export.narrow_integers import with_wide_arithmetic
from edgewright.export.number_forms import STABLE_ORDERS
from edgewright.export.own_outputs import with_own_outputs
from edgewright.export.pooling_forms import has_own_divisor, is_ceiling, is_dilated, tells_places
from edgewright.export.resize_forms import has_other_scale
from edgewright.export.static_graph import NodeValues, static_graph

__all__ = ["graph_for_coreml"]

_MAX_AXES = 5
# Known to coremltools by name, and converted wrongly or not at all (9.0): see each one's form in `lowering`.
_NOT_TRUSTED = {
    *("copy", "fill", "celu", "sort", "argsort", "bitwise_not"),
    *("log1p", "special_log1p", "expm1", "special_expm1", "log_softmax", "special_log_softmax"),
    *("asinh", "arcsinh", "acosh", "arccosh", "logaddexp", "logaddexp2", "xlogy", "special_xlogy", "fmod"),
    *("atan2", "arctan2", "cosine_similarity", "logcumsumexp", "nansum", "nanmean"),
}
_BICUBIC = 2  # of a grid sampler's modes; Core ML has the other two
_WINDOWED = {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"}


def graph_for_coreml(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """An equal graph for inputs of the examples' shapes."""
    module = with_a_batch(static_graph(with_named_operations(module), examples), examples)
    module = with_wide_arithmetic(module, examples)
    # Core ML's GRU is another one than torch's, and its plain recurrent layer goes one way only.
    projected = tuple({type(m) for m in module.modules() if isinstance(m, nn.LSTM) and m.proj_size})
    module = recurrent_layers_as_operations(module, examples, (nn.GRU, nn.RNN, *projected))
    transposed_layers_as_operations(module, adds_nothing)
    # Once more: what the forms make of sizes alone are constants.
    module = static_graph(lowered(module, examples, _is_known, STABLE_ORDERS), examples)
    module = with_few_axes(module, examples, _MAX_AXES)
    return with_own_outputs(module, examples, are_constants_held=False)


def _is_known(node: fx.Node, values: NodeValues) -> bool:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    name = str(node.target).removeprefix("aten.").partition(".")[0]
    # The registry knows names without overloads: it would take this for `round`.
    if str(node.target) == "aten.round.decimals" or (name == "grid_sampler" and node.args[2] == _BICUBIC):
        return False
    if name in _NOT_TRUSTED or name in {"gru", "rnn_tanh", "rnn_relu", "lstm"} or has_factor(node) or is_dilated(node):
        return False
    if has_other_scale(node, values) or tells_places(node):
        return False
    if name in {
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
    }:  # 9.0 crops what is added
        return len(node.args) < 6 or not any(node.args[5])  # type: ignore[arg-type]
    if name in {"avg_pool1d", "avg_pool2d", "avg_pool3d"}:
        # What a window that hangs over the edge is divided by, Core ML's specification does not say.
        return not has_own_divisor(node) and not is_ceiling(node)
    if name in _WINDOWED:
        input_shape, output_shape = values.env[node.args[0]].shape, values.env[node].shape  # type: ignore[index]
        # Only where sizes divide are all windows of one size.
        return all(have % want == 0 for have, want in zip(input_shape, output_shape, strict=True))
    if name in {"pad", "constant_pad_nd"}:
        # MIL's pad has constant, reflect and replicate, and crops nothing.
        if "circular" in node.args:
            return False
        return all(not isinstance(n, int) or n >= 0 for n in node.args[1])  # type: ignore[union-attr]
    # MIL's has neither beta nor threshold.
    if name == "softplus":
        return len(node.args) == 1
    # coremltools gathers columns to an image; where patches overlap they are to be summed.
    if name == "col2im":
        return all(step >= width for step, width in zip(node.args[5], node.args[2], strict=True))  # type: ignore[arg-type]
    return name in _TORCH_OPS_REGISTRY.name_to_func_mapping

"""A torch graph in the form that torch's exporter to ONNX takes; what is free stays free. Imports torch."""

from typing import Any

import torch
from torch import fx

from edgewright.export.attention_axes import with_four_axes
from edgewright.export.batch_axes import with_a_batch
from edgewright.export.lowering import lowered
from edgewright.export.narrow_integers import with_wide_arithmetic
from edgewright.export.own_outputs import with_own_outputs
from edgewright.export.pooling_forms import has_own_divisor
from edgewright.export.recurrent_forms import RECURRENT_FORMS
from edgewright.export.static_graph import NodeValues

__all__ = ["graph_for_onnx"]

_NOT_TAKEN = {
    *("aten.sort.stable", "aten.argsort.stable"),
    "aten.adaptive_max_pool1d.default",
    "aten.adaptive_max_pool2d.default",
    "aten.adaptive_max_pool3d.default",
    # Not accurate near zero, or infinite where the exponential of their operand is.
    *("aten.log1p.default", "aten.special_log1p.default", "aten.expm1.default", "aten.special_expm1.default"),
    *("aten.log_sigmoid.default", "aten.logaddexp.default", "aten.logaddexp2.default", "aten.special_xlog1py.default"),
    *("aten.atan2.default", "aten.arctan2.default", "aten.logcumsumexp.default"),
    "aten.binary_cross_entropy_with_logits.default",
    *("aten.fmax.default", "aten.fmin.default", "aten.hypot.default", "aten.copysign.Tensor", "aten.signbit.default"),
    *("aten.__lshift__.Scalar", "aten.bitwise_left_shift.Tensor_Scalar"),
    *("aten.__rshift__.Scalar", "aten.bitwise_right_shift.Tensor_Scalar"),
    *("aten.__lshift__.Tensor", "aten.bitwise_left_shift.Tensor"),
    *("aten.__rshift__.Tensor", "aten.bitwise_right_shift.Tensor"),
    *("aten.erfc.default", "aten.special_erfc.default", "aten.erfinv.default", "aten.special_erfinv.default"),
}


def graph_for_onnx(module: fx.GraphModule, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """An equal graph for the examples' sizes, and for any other batch."""
    module = with_wide_arithmetic(with_a_batch(module, examples), examples)
    lowered_module = lowered(with_four_axes(module, examples), examples, _is_known)
    lowered_module = with_own_outputs(lowered_module, examples, are_constants_held=True)
    for node in lowered_module.graph.nodes:
        if str(node.target) == "aten.lstm.input" and _is_projected(*node.args[2:]):
            node.target = _projected_lstm
    lowered_module.recompile()
    return lowered_module


def _is_projected(
    weights: list[fx.Node], has_biases: bool, layers: int, _dropout: float, _train: bool, both: bool, *_: bool
) -> bool:
    return len(weights) == layers * (2 if both else 1) * (5 if has_biases else 3)  # the fifth projects


def _projected_lstm(*arguments: Any) -> tuple[torch.Tensor, ...]:
    """Step by step: ONNX's LSTM does not project its hidden state; torch's exporter (2.13) writes one all the same."""
    tensors: tuple[torch.Tensor, ...] = RECURRENT_FORMS["aten.lstm.input"](*arguments)
    return tensors


def _is_known(node: fx.Node, values: NodeValues) -> bool:
    if str(node.target) == "aten.rsub.Scalar":  # of whole numbers: the exporter finds no subtraction of such two
        return bool(values.env[node.args[0]].is_floating_point())  # type: ignore[index]
    return str(node.target) not in _NOT_TAKEN and not has_own_divisor(node)

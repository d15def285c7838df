"""Layers on their way in: one for each weight, however often it is used, with the bias that ONNX adds apart.

Runs in a child process: imports torch and onnx.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from torch import fx, nn

from edgewright.intake.builder import Argument, Builder, Op, Result

__all__ = ["Layers", "users_of"]

_OF_WEIGHTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"}


class Layers:
    """The layers so far, by the very tensors that they hold."""

    def __init__(self, builder: Builder, users: Counter[str]) -> None:
        self.builder, self.users = builder, users
        # The tensors are kept, so that another does not get the identity of one that is gone.
        self._made: dict[tuple[Any, ...], tuple[fx.Node, tuple[Argument, ...]]] = {}
        # How often a layer is called, and what its weight is.
        self._calls: Counter[str] = Counter()
        self._weights: dict[str, Argument] = {}
        self._with_fused_bias: set[str] = set()
        self.is_repeating = False
        """Whether the nodes that come in are those of a loop, each of which comes again."""

    def earlier(self, op: Op) -> fx.Node | None:
        """The call of a layer with the same weights and settings, which may be called again on what ``op`` is given."""
        entry = self._made.get(self._identity(op))
        # A constant operand is folded at once: there is no call to make again.
        if entry is None or not isinstance(op.input(0), fx.Node):
            return None
        call, _ = entry
        # With its bias the layer answers otherwise than this operator does.
        if str(call.target) in self._with_fused_bias:
            return None
        # The layer was made for one rank: nn.BatchNorm1d takes 2 or 3 axes, nn.BatchNorm2d 4.
        if self.builder.rank(op.inputs[0]) != self.builder.rank(call.args[0]):  # type: ignore[arg-type]
            return None
        self._calls[str(call.target)] += 1
        return call

    def note(self, op: Op, result: Result) -> None:
        """Remember a layer that was made of constants and called on what ``op`` is given, as it is."""
        constant = all(v is None or isinstance(v, torch.Tensor) for v in op.inputs[1:])
        if op.kind not in _OF_WEIGHTS or not constant or not isinstance(result, fx.Node):
            return
        # A call on padded or transposed input (args differ) is not the operator alone, and is not shared.
        if result.op == "call_module" and result.args == (op.inputs[0],):
            self._made[self._identity(op)] = result, op.inputs[1:]
            self._calls[str(result.target)] += 1
            self._weights[str(result.target)] = op.inputs[1]

    def fuse_bias(self, node: onnx.NodeProto, values: dict[str, Argument]) -> None:
        """A layer without bias, then Add of a constant for each output channel: one layer, to quantize and prune."""
        if node.op_type != "Add" or len(node.input) != 2:
            return
        for product, addend in (tuple(node.input), tuple(reversed(node.input))):
            call, bias = values[product], values[addend]
            if not isinstance(call, fx.Node) or call.op != "call_module" or not isinstance(bias, torch.Tensor):
                continue
            layer = self.builder.root.get_submodule(str(call.target))
            if _is_bias_of(layer, bias, self.builder.rank(call)) and self._is_read_once(call, values):
                layer.bias = nn.Parameter(bias.detach().clone().reshape(-1))
                self._with_fused_bias.add(str(call.target))
                values[node.output[0]] = call
                return

    def _is_read_once(self, call: fx.Node, values: Mapping[str, Argument]) -> bool:
        """Whether the layer, its weight and its result have one reader: another would get the bias, too."""
        layer = str(call.target)
        if self.is_repeating or self._calls[layer] != 1:
            return False
        # By every name that a value goes by: an Identity gives it another, with readers of its own.
        weight = self._weights[layer]
        return all(self.users[name] == 1 for name, value in values.items() if value is call or value is weight)

    def _identity(self, op: Op) -> tuple[Any, ...]:
        settings = sorted((key, repr(value)) for key, value in op.attributes.items())
        # Padding that follows from the input's size is a setting of the layer.
        follows = op.attributes.get("auto_pad") in {"SAME_UPPER", "SAME_LOWER"} or "output_shape" in op.attributes
        sizes = self.builder.shape(op.inputs[0])[2:] if follows and isinstance(op.input(0), fx.Node) else ()  # type: ignore[arg-type]
        # Constants by identity: two equal weights are two layers, which training may move apart.
        return (op.kind, *(id(value) for value in op.inputs[1:]), *settings, *map(str, sizes))


def users_of(graph: onnx.GraphProto) -> Counter[str]:
    """How often each name is read, outputs and inner graphs included."""
    counts: Counter[str] = Counter(entry.name for entry in graph.output)
    for node in graph.node:
        counts.update(node.input)
        # Inner graphs read outer names: a weight used in a loop's body counts, too.
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                counts.update(users_of(inner))
    return counts


def _is_bias_of(layer: nn.Module, bias: torch.Tensor, rank: int) -> bool:
    # 0 stands for a layer that has no such attribute: only None is a bias that was left out.
    if getattr(layer, "bias", 0) is not None or bias.ndim > rank:
        return False
    # Broadcasting aligns from the last axis: (C, 1, 1) is a bias of Conv2d, (C,) is one of Linear.
    aligned = (1,) * (rank - bias.ndim) + tuple(bias.shape)
    if isinstance(layer, nn.Linear):
        return aligned == (1,) * (rank - 1) + (layer.out_features,)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return aligned == (1, layer.out_channels) + (1,) * (rank - 2)
    return False

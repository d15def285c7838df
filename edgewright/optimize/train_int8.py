"""Quantization-aware training for static int8: what the device computes with, rounding and all, is what is trained.

Weights lie on 255 levels (on 129 for x86 without dot products), with a step for each output channel; each layer's
input on 256 levels, with a step for each tensor; steps are learnt (Jain et al., TQT, arXiv 1903.08066: their
logarithms; Esser et al., LSQ, arXiv 1902.08153: gradients scaled by the number of values). The exported int8 file uses
them as they are: a weight step never exceeds the channel's largest weight over the largest level, so that every
quantizer finds it again from the weights; the ranges of the inputs stand in the graph file, where the exporters read
them. Runs in a child process: imports torch.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.fuse import fuse
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.sensitivity import input_ranges
from edgewright.optimize.training import Tensors, TrainingRows, fit, kept_zeros, weight_names
from edgewright.recipe import TrainInt8

__all__ = ["INPUT_RANGES", "apply", "train_int8"]

INPUT_RANGES = "input_ranges"
"""Key in `GraphModule.meta`: {layer: (step, zero point of 0..255)} of each layer's input."""
_LIMITS = {"auto": 127, 8: 127, 7: 64}  # the largest level of a weight
_LEVELS = 256
# As many as the exporters calibrate with.
_RANGE_ROWS = 256
# What moves or selects values without computing new ones, or averages them: runtimes keep its input's scale.
_SAME_SCALE: tuple[type[nn.Module], ...] = (
    *(nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
_SAME_SCALE_FUNCTIONS: set[Any] = {
    *(torch.flatten, torch.reshape, torch.transpose, torch.permute, torch.squeeze, torch.unsqueeze),
    *(nn.functional.max_pool2d, nn.functional.avg_pool2d, nn.functional.adaptive_avg_pool2d),
}


def apply(model: fx.GraphModule, params: TrainInt8, rows: TechniqueRows) -> fx.GraphModule:
    """See `train_int8`."""
    return train_int8(model, params, rows.training())


def train_int8(model: fx.GraphModule, params: TrainInt8, rows: TrainingRows | None) -> fx.GraphModule:
    """A copy of ``model``, BatchNorm folded, whose weights lie on their channels' int8 grids, and which knows the
    ranges of its layers' inputs (``meta``, see `INPUT_RANGES`). Zeros stay zero.

    Raises:
        UnsupportedError: no training rows, or no linear or convolution layer.
    """
    original = fuse(model)
    model = copy.deepcopy(original)
    names = weight_names(model)
    if rows is None or not names:
        raise UnsupportedError("train_int8: needs training rows and a linear or convolution layer")
    weights, limit = dict(model.named_parameters()), _LIMITS[params.weight_bits]
    # Logarithms: a step stays positive, and an update changes it by a share.
    steps = {n: nn.Parameter(_largest(weights[n].detach()).div(limit).log()) for n in names}
    inputs = _Inputs(model, rows)
    zeros = kept_zeros(model)

    def effective(values: Tensors) -> Tensors:
        values = zeros(values)
        return values | {n: _weight_on_grid(values[n], steps[n], limit) for n in names}

    # Rounded while it trains only: on the device the exported file's own operators do that.
    handles = inputs.attach()
    learnt = [*steps.values(), *inputs.log_steps.values()]
    fit(model, rows, params.training, effective=effective, extra=learnt, teacher=original)
    for handle in handles:
        handle.remove()
    model.meta[INPUT_RANGES] = inputs.learnt()
    return model


class _Inputs:
    """The grids of the layers' inputs: one for each tensor, however many layers it goes to."""

    def __init__(self, model: fx.GraphModule, rows: TrainingRows) -> None:
        ranges = input_ranges(model, rows.take(_RANGE_ROWS).inputs, "mse", 99.99)
        self._model = model
        self._source: dict[str, str] = {}
        bounds: dict[str, tuple[float, float]] = {}
        for node in model.graph.nodes:
            if node.op == "call_module" and str(node.target) in ranges:
                # A runtime quantizes a tensor once: layers that read the same one share its grid.
                source = _source(model, node.all_input_nodes[0])
                low, high = ranges[str(node.target)]
                known = bounds.get(source, (0.0, 0.0))
                bounds[source] = (min(low, known[0]), max(high, known[1]))
                self._source[str(node.target)] = source
        # A tensor of zeros has any grid.
        steps = {source: max(high - low, 1e-6) / (_LEVELS - 1) for source, (low, high) in bounds.items()}
        self.log_steps = {source: nn.Parameter(torch.tensor(step).log()) for source, step in steps.items()}
        # Not learnt: it is a whole number, and moving it would move every level.
        self._zero = {source: round(-bounds[source][0] / step) for source, step in steps.items()}

    def attach(self) -> list[Any]:
        """Round each layer's input from now on; removing the handles ends it."""

        def hook(source: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
            def rounded(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                zero = self._zero[source]
                # As in LSQ: a step's gradient is a sum over all values, and would dwarf a weight's.
                scale = (given[0][0].numel() * _LEVELS) ** -0.5
                value = _on_grid(given[0], self.log_steps[source].exp(), (-zero, _LEVELS - 1 - zero), scale)
                return (value, *given[1:])

            return rounded

        return [
            self._model.get_submodule(layer).register_forward_pre_hook(hook(source))
            for layer, source in self._source.items()
        ]

    def learnt(self) -> dict[str, tuple[float, int]]:
        """(step, zero point) of each layer's input."""
        return {
            layer: (float(self.log_steps[source].detach().exp()), self._zero[source])
            for layer, source in self._source.items()
        }


def _source(model: fx.GraphModule, node: fx.Node) -> str:
    """The name of the node that computed a value, behind what keeps its scale."""
    while node.all_input_nodes and (
        node.target in _SAME_SCALE_FUNCTIONS
        if node.op == "call_function"
        else node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), _SAME_SCALE)
    ):
        node = node.all_input_nodes[0]
    return node.name


def _largest(weight: torch.Tensor) -> torch.Tensor:
    """(O, 1, ...) largest size in each output channel; a channel of zeros has any grid."""
    sizes = weight.abs().flatten(1).amax(1).clamp_min(1e-8)
    return sizes.reshape(-1, *[1] * (weight.ndim - 1))


def _weight_on_grid(weight: torch.Tensor, log_step: torch.Tensor, limit: int) -> torch.Tensor:
    # A larger step than that would leave levels unused, and the file's own scale would be another.
    step = torch.minimum(log_step.exp(), _largest(weight) / limit)
    return _on_grid(weight, step, (-limit, limit), (weight[0].numel() * limit) ** -0.5)


def _on_grid(value: torch.Tensor, step: torch.Tensor, limits: tuple[int, int], scale: float) -> torch.Tensor:
    """``round(value / step) * step`` within the limits; gradients pass to the value and, scaled, to the step."""
    # Forward the step itself, backward its gradient times `scale`.
    passed = step * scale + (step - step * scale).detach()
    position = (value / passed).clamp(*limits)
    # Straight-through: rounding counts as the identity in the derivative, which is else zero everywhere.
    on = (position + (torch.round(position) - position).detach()) * passed
    # Forward, the product itself: the straight-through sum would round differently.
    exact = torch.round(position.detach()) * step.detach()
    result: torch.Tensor = on + (exact - on).detach()
    return result

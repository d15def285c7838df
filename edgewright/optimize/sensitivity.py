"""What quantizing one layer alone does to it: the signal-to-noise ratio of each layer's output (Lin et al., arXiv
1511.06393, "Fixed Point Quantization of Deep Convolutional Networks"). Runs in a child process: imports torch.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.ranges import streamed_ranges
from edgewright.optimize.training import weight_names
from edgewright.recipe import RangeCalibration

__all__ = ["input_ranges", "int8_sensitivity", "rounded_to", "sensitivity", "spread_over", "watched"]

Change = Callable[[torch.Tensor], torch.Tensor]
_BATCH = 32


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    inputs: torch.Tensor,
    change: Change,
    change_input: dict[str, Change] | None = None,
) -> dict[str, float]:
    """For each linear and convolution layer, 10 log10(signal power / error power) of its own output, dB, when
    ``change`` is applied to its weights, and that of ``change_input`` with its name to its input, and to no other's.
    ``inputs`` (N, ...) are calibration rows; they pass through the model once.

    Infinite where the output does not change. The smallest figures name the layers to leave as they are. Where the
    exact output is not finite nothing is compared.
    """
    powers: dict[str, list[float]] = {}
    # Copies, as the exact layers go on to give the layers behind them their inputs.
    rough_layers = {name: copy.deepcopy(model.get_submodule(name)) for name in _layers(model)}
    for layer in rough_layers.values():
        layer.get_parameter("weight").copy_(change(layer.get_parameter("weight")))

    def compare(name: str, given: torch.Tensor, exact: torch.Tensor) -> None:
        rough = rough_layers[name](change_input[name](given) if change_input else given)
        power = powers.setdefault(name, [0.0, 0.0])
        # Over all rows in float64: float32 drops small terms beside a large sum.
        known = exact.isfinite()
        exact, rough = exact[known].double(), rough[known].double()
        power[0] += float((exact**2).sum())
        # A rough output that is not finite where the exact one is: as bad as can be.
        power[1] += float(((rough - exact) ** 2).nan_to_num(nan=math.inf, posinf=math.inf).sum())

    with watched(model.eval(), compare):
        for batch in inputs.split(_BATCH):
            model(batch)
    return {
        # An output of nothing but zeros that changes is as bad as can be: -300 dB.
        name: 10 * math.log10(max(signal / noise, 1e-30)) if noise else math.inf
        for name, (signal, noise) in powers.items()
    }


@torch.no_grad()
def int8_sensitivity(
    model: nn.Module, inputs: torch.Tensor, method: RangeCalibration, percentile: float
) -> dict[str, float]:
    """`sensitivity` to static int8: weights per output channel, the layer's input in 256 levels of its range.

    Raises:
        UnsupportedError: no number that reaches a layer is finite.
    """
    ranges = input_ranges(model, inputs, method, percentile)
    return sensitivity(model, inputs, rounded_to(8), {name: spread_over(*bounds) for name, bounds in ranges.items()})


@torch.no_grad()
def input_ranges(
    model: nn.Module, inputs: torch.Tensor, method: RangeCalibration, percentile: float
) -> dict[str, tuple[float, float]]:
    """The range of the input of each linear and convolution layer, over calibration rows (N, ...).

    Raises:
        UnsupportedError: no number that reaches a layer is finite.
    """
    called: set[str] = set()

    def rows() -> Iterator[dict[str, np.ndarray]]:
        # Emptied after each batch: the activations of all rows would not fit into memory. A list, as a layer may be
        # called several times, with other inputs each.
        seen: list[tuple[str, np.ndarray]] = []
        with watched(model.eval(), lambda name, given, _: seen.append((name, given.numpy()))):
            for batch in inputs.split(_BATCH):
                model(batch)
                for name, given in seen:
                    called.add(name)
                    yield {name: given}
                seen.clear()

    ranges = streamed_ranges(rows, method, percentile)
    if without := sorted(called - ranges.keys()):
        raise UnsupportedError(
            f"int8: what reaches layer {without[0]} is NaN or infinite on all calibration rows; look at the data and "
            "at the layers before it"
        )
    return ranges


@contextmanager
def watched(model: nn.Module, watch: Callable[[str, torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Call ``watch(name, input, output)`` at each linear and convolution layer."""
    handles = []
    for name in _layers(model):

        def hook(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor, name: str = name) -> None:
            watch(name, given[0], output)

        handles.append(model.get_submodule(name).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module) -> list[str]:
    return [weight.removesuffix(".weight") for weight in weight_names(model)]


def rounded_to(bits: int) -> Change:
    """Symmetric rounding of a weight (O, ...) to ``bits`` bits, one scale for each output channel."""
    limit = 2 ** (bits - 1) - 1

    def change(weight: torch.Tensor) -> torch.Tensor:
        # A channel of zeros has any scale.
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / limit
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        rounded: torch.Tensor = torch.round(weight / scale) * scale
        return rounded

    return change


def spread_over(low: float, high: float, levels: int = 256) -> Change:
    """Rounding of an activation to ``levels`` between ``low`` and ``high``, clipped outside, zero kept exact."""
    step = (high - low) / (levels - 1)
    # A step that float32 rounds to zero divides by it.
    step = step if step >= torch.finfo(torch.float32).tiny else 0.0
    # A whole number, as int8 kernels take it: zero is then a level.
    zero = round(-low / step) if step else 0

    def change(value: torch.Tensor) -> torch.Tensor:
        if not step:
            return torch.zeros_like(value)
        return (torch.round(value / step).clamp(-zero, levels - 1 - zero)) * step

    return change

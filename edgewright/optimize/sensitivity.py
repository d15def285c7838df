"""What quantizing one layer alone does to it: the signal-to-noise ratio of each layer's output (Lin et al., arXiv
1511.06393, "Fixed Point Quantization of Deep Convolutional Networks"). Runs in a child process: imports torch.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgewright.optimize.training import weight_names

__all__ = ["rounded_to", "sensitivity"]


@torch.no_grad()
def sensitivity(
    model: nn.Module, inputs: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, float]:
    """For each linear and convolution layer, 10 log10(signal power / error power) of its own output, dB, when
    ``change`` is applied to its weights and to no other's. ``inputs`` (N, ...) are calibration rows.

    Infinite where the output does not change. The smallest figures name the layers to leave as they are.
    """
    original, changed = model.eval(), copy.deepcopy(model).eval()
    ratios = {}
    for name in (weight.removesuffix(".weight") for weight in weight_names(model)):
        layer, kept = changed.get_submodule(name), original.get_submodule(name)
        layer.get_parameter("weight").copy_(change(kept.get_parameter("weight")))
        exact, rough = _output(original, name, inputs), _output(changed, name, inputs)
        layer.get_parameter("weight").copy_(kept.get_parameter("weight"))
        signal, noise = float((exact**2).mean()), float(((rough - exact) ** 2).mean())
        ratios[name] = 10 * math.log10(signal / noise) if noise else math.inf
    return ratios


def rounded_to(bits: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Symmetric rounding of a weight (O, ...) to ``bits`` bits, one scale for each output channel."""
    limit = 2 ** (bits - 1) - 1

    def change(weight: torch.Tensor) -> torch.Tensor:
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / limit
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        rounded: torch.Tensor = torch.round(weight / scale) * scale
        return rounded

    return change


def _output(model: nn.Module, name: str, inputs: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []

    def watch(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        seen.append(output)

    handle = model.get_submodule(name).register_forward_hook(watch)
    try:
        model(inputs)
    finally:
        handle.remove()
    return torch.cat(seen)

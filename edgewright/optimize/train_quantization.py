"""Quantization-aware training onto a uniform grid with a learnt step (Esser et al., LSQ, arXiv 1902.08153).

The exported file holds exactly the grid's values, ``level * step`` in float32: few distinct ones, which is what entropy
coding needs. Zeros stay zero. Runs in a child process: imports torch.
"""

import copy

import numpy as np
import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.fuse import fuse
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.training import Tensors, TrainingRows, fit, kept_zeros, weight_names
from edgewright.recipe import TrainQuantization

__all__ = ["apply", "train_quantization"]

_GRID_CANDIDATES = 64


def apply(model: nn.Module, params: TrainQuantization, rows: TechniqueRows) -> nn.Module:
    """See `train_quantization`."""
    return train_quantization(model, params, rows.training())


def train_quantization(model: nn.Module, params: TrainQuantization, rows: TrainingRows | None) -> nn.Module:
    """A copy of ``model`` whose weights and biases lie on one grid for each tensor.

    Raises:
        UnsupportedError: no training rows, or no linear or convolution layer.
    """
    # Folded by the exporter, a BatchNorm would multiply the grid by another number in each channel.
    original = fuse(model) if isinstance(model, fx.GraphModule) else model
    model = copy.deepcopy(original)
    parameters = dict(model.named_parameters())
    limits = dict.fromkeys(weight_names(model), params.levels)
    limits |= {
        bias: params.bias_levels
        for bias in (name.removesuffix("weight") + "bias" for name in list(limits))
        if bias in parameters
    }
    if rows is None or not limits:
        raise UnsupportedError("train_quantization: needs training rows and a linear or convolution layer")
    # Logarithms: a step is positive, and what one update may change is a share of it.
    log_steps = {n: nn.Parameter(best_step(parameters[n].detach(), limit).log()) for n, limit in limits.items()}
    zeros = kept_zeros(model)

    def effective(values: Tensors) -> Tensors:
        values = zeros(values)
        return {n: on_grid(v, log_steps[n].exp(), limits[n]) if n in limits else v for n, v in values.items()}

    fit(model, rows, params.training, effective=effective, extra=list(log_steps.values()), teacher=original)
    return model


def best_step(weight: torch.Tensor, limit: int) -> torch.Tensor:
    """The step, 0-dim float32, of the grid -limit..limit with the least squared error over the non-zero weights."""
    # Zero is a level of every grid.
    sizes = weight[weight != 0].abs()
    if not len(sizes):
        return torch.tensor(1.0)
    # Around the 95th percentile: the few largest weights may be cut off for a finer step.
    # By numpy, as torch's quantile refuses more than 2^24 values.
    common = float(np.quantile(sizes.numpy(), 0.95))
    candidates = torch.linspace(0.05, 1.5, _GRID_CANDIDATES) * common / limit
    errors = torch.stack([((torch.round(sizes / s).clamp(0, limit) * s - sizes) ** 2).sum() for s in candidates])
    return candidates[errors.argmin()].clone()


def on_grid(weight: torch.Tensor, step: torch.Tensor, limit: int) -> torch.Tensor:
    """``round(weight / step) * step`` within the limit; gradients pass to the weight and, scaled, to the step."""
    # As in LSQ: a step's gradient is a sum over all weights, and would dwarf a weight's own.
    scale = 1.0 / max(1.0, float((weight != 0).sum()) * limit) ** 0.5
    passed = step * scale + (step - step * scale).detach()
    position = (weight / passed).clamp(-limit, limit)
    # Straight-through: rounding counts as the identity in the derivative, which is else zero everywhere.
    level = position + (torch.round(position) - position).detach()
    on = level * passed
    # Forward, the product itself: the straight-through sum would round differently.
    exact = torch.round(position.detach()) * step.detach()
    result: torch.Tensor = on + (exact - on).detach()
    return result

"""How much of the error at a model's outputs each layer brings in 8 bits. Runs in a child process: imports torch.

To first order, an error ``e`` of a layer's output moves the model's outputs by ``J e``. One pass backward from a random
sign of each number of the outputs gives, for all layers at once, a sample whose mean square is the power of ``J e``
(Hutchinson's estimator, Communications in Statistics 18 (1989)).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from edgewright.artifact import CarriedNoise
from edgewright.errors import UnsupportedError
from edgewright.failures import one_line
from edgewright.intake import torch_graph
from edgewright.optimize.fuse import fuse
from edgewright.optimize.sensitivity import rounded_to, spread_over, watched

__all__ = ["carried_noise", "noisiest_layers"]

# Each row costs a forward pass and `_SIGNS` backward ones; the figures only rank the layers.
_ROWS = 4
_SIGNS = 2  # of each row

InputRow = Mapping[str, torch.Tensor]


def noisiest_layers(graph: Path, dataset: Path, inputs: Sequence[str], *, weights_only: bool) -> list[CarriedNoise]:
    """Of the network in file ``graph``, on calibration rows; the most noise for each number of the weights first.

    Raises:
        UnsupportedError: there are no rows, or nothing can be led back through the network.
    """
    with np.load(dataset, allow_pickle=False) as arrays:
        # A column that is missing is refused below in words; `arrays[name]` would raise KeyError.
        columns = {name: arrays.get(f"calibration.x.{name}") for name in inputs}
    count = min((len(column) for column in columns.values() if column is not None), default=0)
    if not count or any(column is None for column in columns.values()):
        raise UnsupportedError("there are no calibration rows")
    # Evenly spaced, as a file's rows may be sorted by class; with few rows the same index comes up twice.
    chosen = np.unique(np.linspace(0, count - 1, _ROWS).astype(int))
    rows = [{n: torch.from_numpy(c[i : i + 1]) for n, c in columns.items() if c is not None} for i in chosen]
    noises = carried_noise(fuse(torch_graph.load(graph)), rows, weights_only=weights_only)
    return sorted(noises, key=lambda one: one.noise / one.numbers, reverse=True)


def carried_noise(model: fx.GraphModule, rows: Sequence[InputRow], *, weights_only: bool) -> list[CarriedNoise]:
    """Of each linear and convolution layer in 8 bits, all others exact, in order of computation.

    Args:
        model: the network in eval mode; its inputs are named as its placeholders stand, in the order of a row.
        rows: each a batch of one, {input: (1, ...)}.
        weights_only: the layers' inputs stay as they are.

    Raises:
        UnsupportedError: nothing can be led back through the network.
    """
    powers: dict[str, float] = {}
    signs = torch.Generator().manual_seed(0)
    model.eval()
    # Autograd refuses requires_grad on integers, which a graph may hold as parameters.
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    for row in rows:
        outputs, errors = _passed(model, row, weights_only=weights_only)
        for _ in range(_SIGNS):
            for name, power in _led_back(outputs, errors, signs).items():
                powers[name] = powers.get(name, 0.0) + power / (_SIGNS * len(rows))
    if not any(powers.values()):
        raise UnsupportedError("no layer's error reaches an output to first order")
    sizes = {name: model.get_submodule(name).get_parameter("weight").numel() for name in powers}
    return [CarriedNoise(layer=name, noise=power, numbers=sizes[name]) for name, power in powers.items()]


Errors = list[tuple[str, torch.Tensor, torch.Tensor]]
"""Of each call of a layer its name, its output and what 8 bits add to that."""


def _passed(model: fx.GraphModule, row: InputRow, *, weights_only: bool) -> tuple[list[torch.Tensor], Errors]:
    """The model's real outputs, and the error of each layer."""
    errors: Errors = []

    def note(name: str, given: torch.Tensor, output: torch.Tensor) -> None:
        layer = model.get_submodule(name)
        # Rounding is not part of the derivative: autograd holds the graph of the exact network alone.
        with torch.no_grad():
            rough = given if weights_only else _in_levels(given)
            errors.append((name, output, _rough(layer, rough) - output))

    try:
        with watched(model, note):
            answer = model(*row.values())
    except RuntimeError as e:
        raise UnsupportedError(f"the network does not run for its derivative: {one_line(str(e))}") from e
    outputs = answer if isinstance(answer, (tuple, list)) else [answer]
    # An integer output, such as a class index, has no derivative.
    return [one for one in outputs if one.is_floating_point() and one.requires_grad], errors


def _in_levels(given: torch.Tensor) -> torch.Tensor:
    """A layer's input in 256 levels of its own range; what is not finite has no level, and stays."""
    known = given.isfinite()
    held = given[known]
    if not held.numel():
        return given
    return torch.where(known, spread_over(float(held.min()), float(held.max()))(given), given)


def _rough(layer: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """What a layer makes of an input with its weight in 8 bits; not by its own call, which would be watched again."""
    weight = layer.get_parameter("weight")
    exact = weight.data
    # By `.data`, and put back: autograd checks the version of a weight that the backward pass still needs.
    weight.data = rounded_to(8)(exact)
    try:
        answer: torch.Tensor = layer.forward(given)
    finally:
        weight.data = exact
    return answer


def _led_back(outputs: list[torch.Tensor], errors: Errors, signs: torch.Generator) -> dict[str, float]:
    """One sample of the power of each layer's error at the outputs, each of which counts by its own power."""
    if not outputs or not errors:
        raise UnsupportedError("no output depends on a layer by a derivative")
    drawn = [torch.randint(0, 2, one.shape, generator=signs) * 2.0 - 1.0 for one in outputs]
    # Each output over its norm: one of large numbers would hide the others. 1e-30: an output may be all zeros.
    total = torch.stack(
        [(one * sign / one.detach().norm().clamp_min(1e-30)).sum() for one, sign in zip(outputs, drawn, strict=True)]
    ).sum()
    try:
        # Retained, as the next draw of signs goes through the same graph; unused, as a layer may reach no output.
        slopes = torch.autograd.grad(total, [output for _, output, _ in errors], retain_graph=True, allow_unused=True)
    except RuntimeError as e:
        raise UnsupportedError(f"nothing can be led back through the network: {one_line(str(e))}") from e
    # A layer that is called several times: its errors add up at the output, so they are summed before the square.
    moved: dict[str, float] = {}
    for (name, _, error), slope in zip(errors, slopes, strict=True):
        at_output = float((slope * error).sum()) if slope is not None else 0.0
        moved[name] = moved.get(name, 0.0) + (at_output if np.isfinite(at_output) else 0.0)
    return {name: value**2 for name, value in moved.items()}

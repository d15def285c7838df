"""Torch networks of the zoo: statistics and scales not those of a fresh network, and a `.pt2` with a free batch.

Runs in a child process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves

from benchmarks.zoo_recipes import Recipe, rows_of, seed_of

__all__ = ["save_program"]

_CALIBRATION_ROWS = 24
_MIN_VARIANCE = 0.1
"""Of a channel, over the mean of its layer's: one that hardly moves would be blown up where other rows move it."""
_NEAR_ZERO = 0.01
_TOLERANCE = 1e-4


def save_program(recipe: Recipe, path: Path) -> dict[str, Any]:
    """Build, settle and export a network.

    Raises:
        Exception: whatever the network or `torch.export` raises; the caller records it.
    """
    torch.manual_seed(seed_of(recipe.name))
    model: nn.Module = recipe.make().eval()
    rows = rows_of(recipe, _CALIBRATION_ROWS)
    _vary_constants(model, np.random.default_rng(seed_of(recipe.name)))
    _settle_batch_norm(model, rows)
    program = _exported(model, rows)
    _compare(model, program, rows)
    torch.export.save(program, path)
    with torch.no_grad():
        outputs = model(*_tensors(rows, 2))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "inputs": {name: [str(array.dtype), *array.shape[1:]] for name, array in rows.items()},
        "outputs": [[str(value.dtype).removeprefix("torch."), *value.shape[1:]] for value in tree_leaves(outputs)],
    }


def _tensors(rows: Mapping[str, NDArray[Any]], count: int) -> tuple[torch.Tensor, ...]:
    # A clone: torch.export.save keeps the whole storage that an example is a part of.
    return tuple(torch.from_numpy(array[:count]).clone() for array in rows.values())


def _vary_constants(model: nn.Module, generator: np.random.Generator) -> None:
    """Give parameters that start as one number (scales of norms, biases, layer scales) values that differ.

    Scales near zero, which switch a fresh residual branch off, become large enough for the branch to count.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2 or parameter.min() != parameter.max():
                continue
            value = float(parameter.flatten()[0])
            if abs(value) < _NEAR_ZERO:
                drawn = generator.normal(0, 0.05, tuple(parameter.shape))
            else:
                drawn = value * generator.uniform(0.7, 1.3, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))


def _settle_batch_norm(model: nn.Module, rows: Mapping[str, NDArray[Any]]) -> None:
    """Statistics of real rows, layer by layer, as after training."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            model(*_tensors(rows, _CALIBRATION_ROWS))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
        norm.running_var.clamp_(min=_MIN_VARIANCE * float(norm.running_var.mean()))


def _exported(model: nn.Module, rows: Mapping[str, NDArray[Any]]) -> Any:
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(model, _tensors(rows, 2), dynamic_shapes=[{0: batch} for _ in rows])


def _compare(model: nn.Module, program: Any, rows: Mapping[str, NDArray[Any]]) -> None:
    """The program answers batches of 1 and 5 like the network.

    Raises:
        ValueError: it does not, or its answers are not finite: a file of no use.
    """
    exported = program.module()
    for count in (1, 5):
        example = _tensors(rows, count)
        with torch.no_grad():
            pairs = zip(_flat(model(*example)), _flat(exported(*example)), strict=True)
        for expected, got in pairs:
            if not bool(torch.isfinite(expected).all()):
                raise ValueError("the network's own answers are not finite")
            scale = float(expected.abs().max()) or 1.0
            if expected.shape != got.shape or float((expected - got).abs().max()) > _TOLERANCE * scale:
                raise ValueError(f"the exported program answers a batch of {count} otherwise than the network")


def _flat(outputs: Any) -> list[torch.Tensor]:
    return [value.float() for value in tree_leaves(outputs)]

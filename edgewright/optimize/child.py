"""The child's side of `edgewright.optimize.apply`: read the network, transform it, write it. Imports torch."""

import importlib
import math
from pathlib import Path
from typing import NoReturn

import torch
from torch import fx

from edgewright.artifact import LayerNoise
from edgewright.errors import UnsupportedError
from edgewright.intake import torch_graph
from edgewright.optimize.rows import TechniqueRows, calibration_inputs
from edgewright.optimize.sensitivity import int8_sensitivity
from edgewright.optimize.train_int8 import INPUT_RANGES
from edgewright.optimize.training import weight_names
from edgewright.recipe import AnyTechnique, RangeCalibration, Technique, TrainInt8

__all__ = ["apply_to_file", "layer_noise", "of_the_exporter", "transformed"]

_NOISE_ROWS = 256  # as many as the exporters calibrate with


def apply_to_file(graph: Path, technique: AnyTechnique, dataset: Path, destination: Path) -> None:
    """Transform the network in file ``graph`` and write it to ``destination``; see `edgewright.optimize.apply`."""
    after = transformed(torch_graph.load(graph), technique, dataset)
    torch_graph.save(after.eval(), destination)


def layer_noise(graph: Path, dataset: Path, calibration: RangeCalibration, percentile: float) -> list[LayerNoise]:
    """The noisiest first; see `edgewright.optimize`."""
    inputs = calibration_inputs(dataset)
    # Evenly spaced over the file: its rows may be sorted by class.
    chosen = inputs[torch.linspace(0, len(inputs) - 1, min(len(inputs), _NOISE_ROWS)).long()]
    ratios = int8_sensitivity(torch_graph.load(graph), chosen, calibration, percentile)
    # JSON, by which the child answers, has no infinity: None is a layer that int8 does not change.
    worst_first = sorted(ratios.items(), key=lambda item: item[1])
    return [LayerNoise(layer=n, signal_to_noise_db=db if math.isfinite(db) else None) for n, db in worst_first]


def transformed(model: fx.GraphModule, technique: Technique, dataset: Path) -> fx.GraphModule:
    """One technique on a graph module; ``dataset`` is the ``.npz`` of a `Dataset`."""
    _require_finite_weights(model, technique.technique)
    module, _, name = technique.function.partition(":")
    # By name: the function of a registered technique lies in another distribution.
    after = getattr(importlib.import_module(module), name)(model, technique, TechniqueRows(dataset))
    # Such a function is beyond the type checker here.
    if not isinstance(after, fx.GraphModule):
        raise TypeError(f"{technique.technique} returned a {type(after).__name__}")
    if not isinstance(technique, TrainInt8):
        # Ranges were learnt with the weights that this technique has changed.
        after.meta.pop(INPUT_RANGES, None)
    return after


def _require_finite_weights(model: fx.GraphModule, technique: str) -> None:
    """Here for every technique: each computes with all weights of a layer, and one NaN spreads to all of them."""
    for name in weight_names(model):
        weight = model.get_parameter(name)
        if broken := int((~weight.isfinite()).sum()):
            raise UnsupportedError(
                f"{technique}: {broken} of {weight.numel()} numbers in {name} are NaN or infinite; mend the model, or "
                "leave this technique out"
            )


def of_the_exporter(model: fx.GraphModule, params: Technique, rows: TechniqueRows) -> NoReturn:
    """What `quantize` names as its function: the platform's own quantizer does it, on the way out."""
    raise UnsupportedError(f"{params.technique} is done by the platform's own quantizer, when the model is exported")

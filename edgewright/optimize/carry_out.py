"""The child's side of `edgewright.optimize.apply`: read the network, transform it, write it. Imports torch."""

import math
from functools import partial
from pathlib import Path
from typing import assert_never

import torch
from torch import fx, nn

from edgewright.artifact import LayerNoise
from edgewright.errors import UnsupportedError
from edgewright.intake import torch_graph
from edgewright.optimize.cluster import cluster
from edgewright.optimize.compact_weights import compact_weights
from edgewright.optimize.decompose import decompose, decompose_within
from edgewright.optimize.distill import distill
from edgewright.optimize.fuse import fuse
from edgewright.optimize.prune import prune
from edgewright.optimize.prune_channels import prune_channels
from edgewright.optimize.rows import calibration_inputs, training_rows, validation_rows
from edgewright.optimize.selection import loses_little
from edgewright.optimize.sensitivity import int8_sensitivity
from edgewright.optimize.train_int8 import INPUT_RANGES, train_int8
from edgewright.optimize.train_quantization import train_quantization
from edgewright.recipe import (
    AnyTechnique,
    Calibration,
    Cluster,
    CompactWeights,
    Decompose,
    Distill,
    Fuse,
    Prune,
    PruneChannels,
    Quantize,
    TrainInt8,
    TrainQuantization,
)

__all__ = ["carry_out", "layer_noise", "transformed"]

_NOISE_ROWS = 256  # as many as the exporters calibrate with


def carry_out(graph: Path, technique: AnyTechnique, dataset: Path, made: Path) -> None:
    """Transform the network in file ``graph`` and write it to ``made``; see `edgewright.optimize.apply`."""
    after = transformed(torch_graph.load(graph), technique, dataset)
    torch_graph.save(after.eval(), made)


def layer_noise(graph: Path, dataset: Path, calibration: Calibration, percentile: float) -> list[LayerNoise]:
    """The noisiest first; see `edgewright.optimize`."""
    inputs = calibration_inputs(dataset)
    chosen = inputs[torch.linspace(0, len(inputs) - 1, min(len(inputs), _NOISE_ROWS)).long()]
    ratios = int8_sensitivity(torch_graph.load(graph), chosen, calibration, percentile)
    worst_first = sorted(ratios.items(), key=lambda item: item[1])
    return [LayerNoise(layer=n, signal_to_noise_db=db if math.isfinite(db) else None) for n, db in worst_first]


def transformed(model: fx.GraphModule, technique: AnyTechnique, dataset: Path) -> fx.GraphModule:
    """One technique on a graph module; ``dataset`` is the ``.npz`` of a `Dataset`."""
    after = _after(model, technique, dataset)
    if not isinstance(after, fx.GraphModule):
        raise TypeError(f"{technique.technique} returned a {type(after).__name__}")
    if not isinstance(technique, TrainInt8):
        # Ranges were learnt with the weights that this technique has changed.
        after.meta.pop(INPUT_RANGES, None)
    return after


def _after(model: fx.GraphModule, technique: AnyTechnique, dataset: Path) -> nn.Module:
    match technique:
        case Prune():
            return prune(model, technique, training_rows(dataset) if technique.training else None)
        case TrainQuantization():
            return train_quantization(model, technique, training_rows(dataset))
        case TrainInt8():
            return train_int8(model, technique, training_rows(dataset))
        case Cluster():
            return cluster(model, technique, training_rows(dataset) if technique.training else None)
        case CompactWeights():
            return compact_weights(model, technique, calibration_inputs(dataset))
        case Distill():
            return distill(model, technique, training_rows(dataset))
        case PruneChannels():
            return prune_channels(model, technique, training_rows(dataset))
        case Decompose():
            return _decomposed(model, technique, dataset)
        case Fuse():
            return fuse(model)
        case Quantize():
            raise UnsupportedError("quantize is done by the platform's own quantizer, when the model is exported")
        case _:
            assert_never(technique)


def _decomposed(model: fx.GraphModule, params: Decompose, dataset: Path) -> fx.GraphModule:
    rows, example = training_rows(dataset) if params.training else None, calibration_inputs(dataset)[:1]
    if params.rank != "search":
        return decompose(model, params, example, rows)
    held_out = validation_rows(dataset)
    allowed = partial(loses_little, model, held_out, params.max_accuracy_drop_percent)
    return decompose_within(model, params, example, rows, allowed)

"""Weights trained onto a grid."""

import torch

from edgewright.optimize.prune import prune
from edgewright.optimize.train_quantization import best_step, train_quantization
from edgewright.recipe import Prune, TrainQuantization
from tests.optimize.networks import SHORT, accuracy


def test_train_quantization_lands_exactly_on_a_grid_and_keeps_zeros(model, rows):
    pruned = prune(model, Prune(sparsity=0.7, training=SHORT), rows)
    quantized = train_quantization(pruned, TrainQuantization(levels=3, training=SHORT), rows)
    for name in ("conv1", "conv2", "fc1", "fc2"):
        weight = quantized.get_submodule(name).weight.detach()
        assert len(torch.unique(weight)) <= 7
        assert (weight[pruned.get_submodule(name).weight == 0] == 0).all()
        sizes = torch.unique(weight.abs())[1:]
        assert any(torch.equal(torch.round(weight / s) * s, weight) for s in (sizes[0], sizes[0] / 2, sizes[0] / 3))
    assert accuracy(quantized, rows) > accuracy(model, rows) - 0.05


def test_a_step_is_found_for_more_weights_than_torch_takes_quantiles_of():
    weight = torch.linspace(-1, 1, (1 << 24) + 3)
    assert 0.05 < float(best_step(weight, 7)) < 0.2

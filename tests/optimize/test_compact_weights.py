"""Levels chosen by rate and distortion, without labels."""

import copy

import torch

from edgewright.optimize.compact_weights import compact_weights
from edgewright.recipe import CompactWeights
from tests.optimize.networks import accuracy, density


def test_compact_weights_needs_no_labels_and_beats_rounding_at_the_same_number_of_values(model, rows):
    compacted = compact_weights(model, CompactWeights(price=3e-7), rows.inputs)
    assert accuracy(compacted, rows) > accuracy(model, rows) - 0.03
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("conv1", "conv2", "fc1", "fc2"):
            weight, kept = rounded.get_submodule(name).weight, compacted.get_submodule(name).weight
            sizes = torch.unique(kept.abs())
            step = (sizes[1:] - sizes[:-1]).min()
            weight.copy_(torch.round(weight / step) * step)
    assert density(compacted) < 0.8 * density(rounded)


def test_compact_weights_spends_less_at_a_higher_price(model, rows):
    cheap, dear = (compact_weights(model, CompactWeights(price=p), rows.inputs) for p in (1e-8, 1e-5))
    assert density(dear) < density(cheap)

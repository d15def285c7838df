"""Which layer bears quantization, and which does not."""

import math

import torch
from torch import nn

from edgewright.optimize.sensitivity import rounded_to, sensitivity


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def test_fewer_bits_are_noisier_in_every_layer():
    model, inputs = network(), torch.randn(200, 8)
    coarse, fine = (sensitivity(model, inputs, rounded_to(bits)) for bits in (3, 8))
    assert list(coarse) == ["0", "2"]
    # Each bit is worth about 6 dB.
    assert all(20 < fine[name] - coarse[name] < 40 for name in coarse)


def test_a_layer_with_an_outlier_is_the_most_sensitive():
    model = network()
    with torch.no_grad():
        model[2].weight[:, 0] = 50.0  # the scale of every channel is its largest weight's
        model[0].weight[0] = 0.0
        model[0].bias[0] = -1.0
    ratios = sensitivity(model, torch.randn(200, 8), rounded_to(4))
    assert ratios["2"] < ratios["0"]


def test_the_model_is_left_as_it_was_and_no_change_is_infinite():
    model = network()
    before = [p.clone() for p in model.parameters()]
    ratios = sensitivity(model, torch.randn(20, 8), lambda w: w)
    assert all(math.isinf(r) for r in ratios.values())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

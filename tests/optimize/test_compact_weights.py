"""Levels chosen by rate and distortion, without labels."""

import copy

import pytest
import torch
from torch import fx, nn

from edgewright.optimize.compact_weights import _inputs_of, _output_importance, compact_weights
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


class Two(nn.Module):
    """Two outputs, one of them of one number a row, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.first(torch.relu(self.first(x)))
        scores = self.second(x)
        return scores, x.sum(1), scores.argmax(1)


def test_all_outputs_and_all_calls_of_a_layer_count():
    torch.manual_seed(0)
    net, inputs = Two(), torch.randn(200, 8)
    importance = _output_importance(net, inputs, 0)
    assert list(importance) == ["first", "second"]
    assert all((value > 0).all() for value in importance.values())
    once = fx.symbolic_trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)))
    for model in (net, once):
        compacted = compact_weights(model, CompactWeights(price=1e-3), inputs)
        assert torch.unique(next(compacted.parameters())).numel() < 64


def test_a_layer_called_twice_matters_by_both_calls():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (100 * self.layer(x) + self.layer(x)).sum(1)

    # The gradient of the sum: 100 at the first call's outputs, 1 at the second's, each times unit noise.
    assert float(_output_importance(Twice(), torch.randn(2000, 4), 0)["layer"][0]) == pytest.approx(10_001, rel=0.1)


def test_probabilities_matter_as_the_logits_behind_them():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 4))
    ended = nn.Sequential(plain[0], nn.Softmax(dim=1))
    inputs = torch.randn(300, 6)
    torch.testing.assert_close(
        _output_importance(ended, inputs, 0)["0"], _output_importance(plain, inputs, 0)["0"], rtol=1e-3, atol=1e-5
    )


def test_a_long_sequence_gives_no_more_rows_than_a_picture(monkeypatch):
    monkeypatch.setattr("edgewright.optimize.compact_weights._POSITIONS", 100)
    net = nn.Sequential(nn.Linear(5, 2))
    assert _inputs_of(net, "0", torch.randn(20, 64, 5), 0).shape == (100, 5)
    assert _inputs_of(net, "0", torch.randn(200, 5), 0).shape == (200, 5)

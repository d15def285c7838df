"""What each layer's 8 bits bring to the outputs, against what they are measured to bring."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.intake import torch_graph
from edgewright.optimize.carried_noise import _in_levels, carried_noise, noisiest_layers
from edgewright.optimize.sensitivity import rounded_to


class Branches(nn.Module):
    """The same layer twice over, of which the one's error is made a hundred times larger."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loud, self.quiet, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(100 * torch.tanh(self.loud(x)) + torch.tanh(self.quiet(x)))


def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def measured(model: nn.Module, layer: str) -> float:
    """The error's power over the output's, with that layer's weight in 8 bits."""
    rough = copy.deepcopy(model)
    weight = rough.get_submodule(layer).get_parameter("weight")
    given = torch.from_numpy(rows())
    with torch.no_grad():
        weight.copy_(rounded_to(8)(weight))
        exact = model(given)
        return float(((rough(given) - exact) ** 2).sum() / (exact**2).sum())


def test_it_is_as_large_as_what_is_measured():
    model = fx.symbolic_trace(Branches().eval())
    found = carried_noise(model, [{"x": row[None]} for row in torch.from_numpy(rows())], weights_only=True)
    assert {one.layer: one.numbers for one in found} == {"loud": 128, "quiet": 128, "out": 64}
    for one in found:
        assert measured(model, one.layer) / 3 < one.noise < 3 * measured(model, one.layer)


def test_the_noisiest_comes_first_and_inputs_in_8_bits_add_to_it(tmp_path):
    torch_graph.save(fx.symbolic_trace(Branches().eval()), tmp_path / "m.graph")
    np.savez(tmp_path / "d.npz", **{"calibration.x.x": rows()})
    found = noisiest_layers(tmp_path / "m.graph", tmp_path / "d.npz", ["x"], weights_only=True)
    assert [one.layer for one in found][-1] == "quiet"
    both = noisiest_layers(tmp_path / "m.graph", tmp_path / "d.npz", ["x"], weights_only=False)
    assert sum(one.noise for one in both) > sum(one.noise for one in found)


def test_without_a_derivative_or_rows_it_is_refused(tmp_path):
    class Rounded(Branches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.round(super().forward(x)) > 0

    row = {"x": torch.from_numpy(rows()[:1])}
    with pytest.raises(UnsupportedError, match="no output depends"):
        carried_noise(fx.symbolic_trace(Rounded().eval()), [row], weights_only=True)
    torch_graph.save(fx.symbolic_trace(Branches().eval()), tmp_path / "m.graph")
    np.savez(tmp_path / "d.npz", other=rows())
    with pytest.raises(UnsupportedError, match="no calibration rows"):
        noisiest_layers(tmp_path / "m.graph", tmp_path / "d.npz", ["x"], weights_only=True)


def test_an_input_that_is_not_finite_has_no_levels():
    given = torch.tensor([[1.0, math.nan, -math.inf, 0.3]])
    found = _in_levels(given)
    assert found[0, 0] == pytest.approx(1.0, abs=0.01)
    assert found[0, 1].isnan()
    assert found[0, 2] == -math.inf
    assert _in_levels(torch.full((2,), math.nan)).isnan().all()


def test_a_network_of_nothing_but_nan_is_refused_in_words():
    net = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    with pytest.raises(UnsupportedError, match="no layer's error"):
        carried_noise(net, [{"x": torch.full((1, 4), math.nan)}], weights_only=False)

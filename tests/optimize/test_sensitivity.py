"""Which layer bears quantization, and which does not."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from edgewright.artifact import Artifact, Exported, Format, LayerNoise, Precision
from edgewright.errors import UnsupportedError
from edgewright.optimize.sensitivity import input_ranges, int8_sensitivity, rounded_to, sensitivity, spread_over
from edgewright.report.sensitivity import sensitivity_csv, sensitivity_svg


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


def test_a_layer_whose_input_has_an_outlier_bears_int8_badly():
    model, inputs = network(), torch.randn(200, 8)
    with torch.no_grad():  # one unit a thousand times larger than the others, which its weight does not use
        model[0].weight[0], model[0].bias[0], model[2].weight[:, 0] = 0.0, 1000.0, 0.0
    widest, clipped = (int8_sensitivity(model, inputs, method, 99.0)["2"] for method in ("min_max", "mse"))
    plain = int8_sensitivity(network(), inputs, "min_max", 99.0)["2"]
    assert plain > 30
    assert widest < 5
    assert clipped == pytest.approx(widest, abs=1)  # a constant that is part of every row is not a tail


def test_activations_count_beside_weights():
    model, inputs = network(), torch.randn(200, 8)
    both, weights = int8_sensitivity(model, inputs, "min_max", 99.0), sensitivity(model, inputs, rounded_to(8))
    assert all(weights[name] - 20 < both[name] < weights[name] for name in weights)


def test_zero_is_exact_in_any_range():
    assert spread_over(-0.77, 3.1)(torch.zeros(3)).tolist() == [0, 0, 0]
    assert spread_over(0.0, 0.0)(torch.ones(2)).tolist() == [0, 0]


def exported(*ratios: float | None, kept: tuple[str, ...] = ()) -> Exported:
    file = Artifact(path=Path("m.onnx"), format=Format.ONNX, digest="0", size_bytes=1)
    noise = tuple(LayerNoise(layer=f"layer{i}", signal_to_noise_db=ratio) for i, ratio in enumerate(ratios))
    return Exported(
        artifact=file,
        precision=Precision.INT8,
        inputs=(),
        outputs=(),
        runtime="onnxruntime",
        runtime_floor="1.14",
        sensitivity=noise,
        float_layers=kept,
    )


def test_the_table_names_every_layer_and_how_it_is_stored():
    table = sensitivity_csv(exported(3.25, 41.0, None, kept=("layer0",))).decode().splitlines()
    assert table[1:] == ["layer0,3.25,float", "layer1,41.00,int8", "layer2,,int8"]


def test_the_plot_grows_with_the_layers():
    few, many = (sensitivity_svg(exported(*range(count), kept=("layer0",))) for count in (2, 30))
    heights = [int(re.findall(rb'^<svg [^>]*height="(\d+)"', svg)[0]) for svg in (few, many)]
    assert heights[1] > 3 * heights[0]
    assert few.count(b'class="baseline"') == 1


class Twice(nn.Module):
    """One layer, called with inputs of very different size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.layer(x / 100)


@pytest.mark.parametrize("method", ["min_max", "mse"])
def test_the_range_of_a_layer_is_that_of_all_its_calls(method):
    ranges = input_ranges(Twice(), torch.linspace(0, 10, 80).reshape(20, 4), method, 99.99)
    assert ranges["layer"] == (0.0, pytest.approx(10, rel=0.01))


def test_a_layer_that_nothing_finite_reaches_is_named():
    model = network()
    with torch.no_grad():
        model[0].bias.fill_(math.nan)
    with pytest.raises(UnsupportedError, match="reaches layer 2 is NaN or infinite"):
        int8_sensitivity(model, torch.randn(40, 8), "min_max", 99.0)


def test_a_row_that_is_not_finite_leaves_the_figure_of_the_others():
    model, inputs = network(), torch.randn(200, 8)
    broken = torch.cat([inputs, torch.full((1, 8), math.nan)])
    for name, ratio in int8_sensitivity(model, inputs, "min_max", 99.0).items():
        assert int8_sensitivity(model, broken, "min_max", 99.0)[name] == pytest.approx(ratio, abs=0.1)


def test_a_range_that_float32_cannot_divide_is_a_range_of_zeros():
    assert spread_over(0.0, 1e-45)(torch.tensor([0.0, 1e-45, 1.0])).tolist() == [0, 0, 0]

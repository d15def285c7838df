"""An output that is an input, the same as another, or a constant; one that the next operators read, too."""

import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_outputs

pytestmark = pytest.mark.filterwarnings("ignore")
PLATFORMS = pytest.mark.parametrize("platform", list(Platform), ids=str)


class Returning(nn.Module):
    def __init__(self, what):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)
        self.register_buffer("steps", torch.arange(4.0)[None])
        self.what = what

    def forward(self, x):
        return self.what(self, x, self.layer(x))


RETURNED = {
    "its input": lambda self, x, y: (x, y),
    "an output twice": lambda self, x, y: (y, y),
    "a constant": lambda self, x, y: (y, (self.steps * 2).expand(x.shape[0], 4)),
    "a constant alone": lambda self, x, y: self.steps.expand(x.shape[0], 4),
}


@PLATFORMS
@pytest.mark.parametrize("what", RETURNED)
def test_every_output_is_what_the_model_gives(what, platform, tmp_path):
    rows = torch.randn(12, 6).numpy()
    found, expected = exported_outputs(Returning(RETURNED[what]), rows, platform, Precision.FLOAT32, tmp_path)
    assert len(found) == len(expected)
    for given, wanted in zip(found, expected, strict=True):
        assert given == pytest.approx(wanted, abs=1e-5)


MOVED = {
    "itself": lambda self, x, y: (y, y),
    "reshaped": lambda self, x, y: (y, y.reshape(-1, 2, 2)),
    "sliced": lambda self, x, y: (y, y[:, 1:]),
    "side by side": lambda self, x, y: (y, torch.cat([y, y], 1)),
}


@pytest.mark.parametrize("what", MOVED)
def test_int8_moves_an_output_in_8_bits(what, tmp_path):
    rows = torch.randn(4, 6).repeat(6, 1).numpy()  # the range of the calibration rows is that of all
    found, expected = exported_outputs(Returning(MOVED[what]), rows, Platform.ANDROID, Precision.INT8, tmp_path)
    for given, wanted in zip(found, expected, strict=True):
        assert abs(given - wanted).max() < 0.1 * abs(wanted).max()


def test_int8_compares_an_output_and_keeps_it(tmp_path):
    """The signature names what is given, not the tensor in 8 bits behind it."""
    rows = torch.randn(4, 6).repeat(6, 1).numpy()  # the range of the calibration rows is that of all
    module = Returning(lambda self, x, y: (y, y > 0.1, y.argmax(1)))
    found, expected = exported_outputs(module, rows, Platform.ANDROID, Precision.INT8, tmp_path)
    assert [values.dtype.kind for values in found] == ["f", "b", "i"]
    assert abs(found[0] - expected[0]).max() < 0.1 * abs(expected[0]).max()
    for given, wanted in zip(found[1:], expected[1:], strict=True):
        assert (given == wanted).mean() > 0.9

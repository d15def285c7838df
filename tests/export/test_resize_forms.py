"""A resize by a scale that leaves a part of a pixel is made by torch's own rule."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.artifact import Precision
from edgewright.export.resize_forms import RESIZE_FORMS
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
ATEN = torch.ops.aten


@pytest.mark.parametrize("scale", [1.7, 0.6, 2.0])
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("upsample_nearest1d", 1),
        ("upsample_nearest2d", 2),
        ("_upsample_nearest_exact2d", 2),
        ("upsample_nearest3d", 3),
        ("upsample_linear1d", 1),
        ("upsample_bilinear2d", 2),
        ("upsample_bicubic2d", 2),
        ("_upsample_bilinear2d_aa", 2),
        ("upsample_trilinear3d", 3),
    ],
)
def test_form_resizes_as_the_operation(name, axes, scale):
    x = torch.randn(2, 3, *(7, 9, 4)[:axes])
    sizes = [int(n * 1.4) for n in x.shape[2:]]
    for aligned in ((),) if "nearest" in name else ((False,), (True,)):
        for settings in ((None, *aligned, [scale] * axes), (sizes, *aligned, None)):
            found = RESIZE_FORMS[f"aten.{name}.vec"](x, *settings)
            assert torch.allclose(found, getattr(ATEN, name).vec(x, *settings), atol=1e-5)


class Resized(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, x):
        return functional.interpolate(x, **self.settings)


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.ANDROID], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_file_resizes_by_a_broken_scale(mode, platform, tmp_path):
    rows = np.random.default_rng(0).normal(size=(4, 2, 7, 9)).astype(np.float32)
    module = Resized(scale_factor=1.7, mode=mode)
    assert largest_difference(*exported_answers(module, rows, platform, Precision.FLOAT32, tmp_path)) < 1e-5

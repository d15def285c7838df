"""What Core ML's converter refuses or answers otherwise: NaN that is left out or held, and a bicubic sampling grid."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_outputs

pytestmark = pytest.mark.filterwarnings("ignore")


class LeavingOut(nn.Module):
    """Negative numbers become a constant that is NaN, and are left out."""

    def __init__(self):
        super().__init__()
        self.register_buffer("nothing", torch.full((1, 6), float("nan")))

    def forward(self, x):
        partly = torch.where(x > 0, x, self.nothing)
        return torch.nanmean(partly, 1), torch.nansum(partly, 1, keepdim=True), torch.isnan(partly).float()


class Sampling(nn.Module):
    """A picture of 6 x 6 on a grid of its own."""

    def forward(self, x):
        places = torch.tanh(x[:, 0, :5, :4]).reshape(x.shape[0], 5, 2, 2) * 1.2
        return functional.grid_sample(x, places, mode="bicubic", align_corners=False)


def test_what_is_nan_is_left_out_of_sums_and_means(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    rows[0] = -np.abs(rows[0])  # nothing but NaN: a mean of NaN, and a sum of 0
    found, expected = exported_outputs(LeavingOut(), rows, Platform.IOS, Precision.FLOAT32, tmp_path)
    assert np.isnan(expected[0][0])
    assert expected[1][0] == 0
    for given, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_a_bicubic_sampling_grid(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 2, 6, 6)).astype(np.float32)
    found, expected = exported_outputs(Sampling(), rows, Platform.IOS, Precision.FLOAT32, tmp_path)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)

"""Weights before a BatchNorm of a tiny variance: 8 bits keep in float32 what half precision had to."""

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Precision
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")


def network(variance):
    torch.manual_seed(0)
    first, norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, eps=1e-12)
    with torch.no_grad():
        norm.running_var.fill_(variance)
        for tensor in (first.weight, first.bias):
            tensor.mul_(variance**0.5)
    return nn.Sequential(first, nn.ReLU(), norm, nn.Conv2d(16, 8, 3))


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.ANDROID], ids=str)
def test_int8_holds_small_weights(platform, tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)
    found, expected = exported_answers(network(1e-10), rows, platform, Precision.INT8, tmp_path)
    assert largest_difference(found, expected) < 0.1

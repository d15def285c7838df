"""Layers split into thinner ones."""

import copy

import pytest
import torch

from edgewright.errors import UnsupportedError
from edgewright.optimize.decompose import decompose
from edgewright.optimize.prune_channels import multiply_accumulates
from edgewright.optimize.training import predictions
from edgewright.recipe import Decompose


@pytest.mark.parametrize("convolution", ["channel", "spatial"])
def test_decompose_at_full_energy_changes_no_output(model, rows, convolution):
    low = copy.deepcopy(model)
    with torch.no_grad():  # weights of rank 2 can be split without loss
        low.fc1.weight.copy_(low.fc1.weight[:, :2] @ torch.randn(2, 96))
        a, b = torch.randn(24 * 3, 2), torch.randn(2, 16 * 3)
        low.conv2.weight.copy_((a @ b).reshape(24, 3, 16, 3).permute(0, 2, 3, 1))
    split = decompose(low, Decompose(energy=0.999999, convolution=convolution), None)
    assert "fc1_reduce" in dict(split.named_modules())
    assert multiply_accumulates(split, rows.inputs[:1]) < multiply_accumulates(low, rows.inputs[:1])
    expected, got = predictions(low, rows.inputs[:50]), predictions(split, rows.inputs[:50])
    assert torch.allclose(expected, got, atol=1e-3 * float(expected.abs().max()))


def test_decompose_that_would_cost_more_is_refused(model):
    with pytest.raises(UnsupportedError, match="rank"):
        decompose(model, Decompose(energy=1.0), None)

"""Layers split into thinner ones: what they answer, what they cost, and when nothing is split."""

import copy

import pytest
import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.decompose import decompose, decompose_within
from edgewright.optimize.prune_channels import multiply_accumulates
from edgewright.optimize.selection import loses_little
from edgewright.optimize.training import predictions
from edgewright.recipe import Decompose
from tests.optimize.networks import accuracy, blobs

KINDS = ["channel", "spatial", "tucker"]


@pytest.fixture
def low(model: fx.GraphModule) -> fx.GraphModule:
    """The network with weights that can be split without loss."""
    made = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        made.fc1.weight.copy_(made.fc1.weight[:, :2] @ torch.randn(2, 96))
        # Rank 2 along every unfolding.
        core = torch.einsum("r,oi,h,w->roihw", torch.ones(2), torch.ones(2, 2), torch.ones(3), torch.ones(3))
        core = core[0] * torch.randn(2, 2, 3, 3)
        weight = torch.einsum("rshw,or,is->oihw", core, torch.randn(24, 2), torch.randn(16, 2))
        made.conv2.weight.copy_(weight)
    return made


@pytest.mark.parametrize("convolution", KINDS)
def test_full_energy_changes_no_output_and_costs_less(low, rows, convolution):
    split = decompose(low, Decompose(energy=0.999999, convolution=convolution), rows.inputs[:1], None)
    assert {"fc1_reduce", "conv2_reduce"} <= set(dict(split.named_modules()))
    assert ("conv2_core" in dict(split.named_modules())) == (convolution == "tucker")
    assert multiply_accumulates(split, rows.inputs[:1]) < multiply_accumulates(low, rows.inputs[:1])
    expected, got = predictions(low, rows.inputs[:50]), predictions(split, rows.inputs[:50])
    assert torch.allclose(expected, got, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("convolution", KINDS)
def test_a_ratio_is_the_share_of_operations_that_is_gone(model, rows, convolution):
    split = decompose(model, Decompose(rank="ratio", ratio=0.6, convolution=convolution), rows.inputs[:1], None)
    share = multiply_accumulates(split, rows.inputs[:1]) / multiply_accumulates(model, rows.inputs[:1])
    # What cannot be split (the first layer has one input channel) stays; ranks are whole numbers.
    assert 0.3 < share < 0.5


@pytest.mark.parametrize(("stride", "padding"), [(2, 1), (1, 0), (2, 0)])
@pytest.mark.parametrize("convolution", KINDS)
def test_operations_fall_with_any_stride_and_padding(convolution, stride, padding):
    torch.manual_seed(0)
    net = fx.symbolic_trace(nn.Sequential(nn.Conv2d(12, 16, 5, stride, padding), nn.Flatten())).eval()
    example = torch.randn(1, 12, 9, 13)
    full = multiply_accumulates(net, example)
    for ratio in (0.05, 0.3, 0.7):
        split = decompose(net, Decompose(rank="ratio", ratio=ratio, convolution=convolution), example, None)
        assert multiply_accumulates(split, example) <= (1 - ratio) * full * 1.02
        assert split(example).shape == net(example).shape


def test_tucker_is_the_better_the_more_it_keeps(model, rows):
    off = []
    for ratio in (0.8, 0.5, 0.2):
        split = decompose(model, Decompose(rank="ratio", ratio=ratio, convolution="tucker"), rows.inputs[:1], None)
        off.append(float((predictions(split, rows.inputs) - predictions(model, rows.inputs)).square().mean()))
    assert off[0] > off[1] > off[2]


def test_a_search_removes_as_much_as_the_validation_rows_allow(model, rows):
    held_out = blobs(400, 5)
    tried: list[float] = []

    def allowed(changed: nn.Module) -> bool:
        tried.append(multiply_accumulates(changed, rows.inputs[:1]))
        return loses_little(model, held_out, 2.0, changed)

    found = decompose_within(model, Decompose(rank="search"), rows.inputs[:1], None, allowed)
    assert accuracy(found, held_out) > accuracy(model, held_out) - 0.05
    assert multiply_accumulates(found, rows.inputs[:1]) < multiply_accumulates(model, rows.inputs[:1])
    assert 1 < len(tried) <= 7
    with pytest.raises(UnsupportedError, match="validation rows"):
        decompose_within(model, Decompose(rank="search"), rows.inputs[:1], None, lambda _: False)


def test_a_paired_test_decides_what_is_little(model):
    held_out = blobs(400, 5)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.fc2.weight.zero_()
    assert loses_little(model, held_out, 1.0, model)
    assert not loses_little(model, held_out, 1.0, broken)
    # Two rows cannot tell.
    assert loses_little(model, held_out.take(2), 1.0, broken)


def test_decompose_that_would_cost_more_is_refused(model, rows):
    with pytest.raises(UnsupportedError, match="rank"):
        decompose(model, Decompose(energy=1.0), rows.inputs[:1], None)

"""Structured pruning to a target."""

import copy

import pytest
import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.prune_channels import multiply_accumulates, prune_channels
from edgewright.optimize.training import TrainingRows, predictions
from edgewright.recipe import PruneChannels, Training
from tests.optimize.networks import CLASSES, accuracy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pruning.*:UserWarning")


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "batchnorm"])
def test_prune_channels_removes_the_operations_it_says(model, rows, importance):
    params = PruneChannels(ratio=0.5, importance=importance, steps=2, training=Training(epochs=3, learning_rate=3e-3))
    narrow = prune_channels(model, params, rows)
    example = rows.inputs[:1]
    assert multiply_accumulates(narrow, example) <= 0.5 * multiply_accumulates(model, example)
    assert predictions(narrow, example).shape == (1, CLASSES)
    assert accuracy(narrow, rows) > accuracy(model, rows) - 0.08


def test_prune_channels_to_a_share_of_the_parameters(model, rows):
    params = PruneChannels(ratio=0.6, target="parameters", steps=2, training=None)
    narrow = prune_channels(model, params, rows)
    count = [sum(p.numel() for p in net.parameters()) for net in (model, narrow)]
    assert 0.3 * count[0] < count[1] <= 0.4 * count[0]
    assert predictions(narrow, rows.inputs[:1]).shape == (1, CLASSES)


def _widths(net):
    return [net.get_submodule(name).out_channels for name in ("conv1", "conv2")]


def test_by_layer_each_layer_loses_the_same_share(model, rows):
    narrow = prune_channels(model, PruneChannels(ratio=0.7, scope="layer", steps=1, training=None), rows)
    shares = [after / before for after, before in zip(_widths(narrow), _widths(model), strict=True)]
    assert max(shares) < 0.75
    assert max(shares) - min(shares) < 0.1


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_channels_left_are_a_multiple_of_what_is_asked(model, rows, scope):
    params = PruneChannels(ratio=0.4, scope=scope, channel_multiple=4, steps=1, training=None)
    narrow = prune_channels(model, params, rows)
    assert _widths(narrow) != _widths(model)
    assert all(width % 4 == 0 and width > 0 for width in _widths(narrow))
    assert multiply_accumulates(narrow, rows.inputs[:1]) <= 0.6 * multiply_accumulates(model, rows.inputs[:1])


def test_a_multiple_that_leaves_too_little_to_remove_is_refused(model, rows):
    with pytest.raises(UnsupportedError, match="multiples of 64"):
        prune_channels(model, PruneChannels(ratio=0.5, channel_multiple=64, steps=1, training=None), rows)


def test_a_latency_is_not_the_graphs_to_know(model, rows):
    with pytest.raises(UnsupportedError, match="exported"):
        prune_channels(model, PruneChannels(target="latency"), rows)


@pytest.mark.parametrize("importance", ["batchnorm", "magnitude"])
def test_channels_of_equal_importance_do_not_all_fall(importance):
    """As of a network whose BatchNorm scales were never trained."""
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))
    net = fx.symbolic_trace(net.extend([nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]))
    with torch.no_grad():
        for name in ("0", "3"):
            net.get_submodule(name).weight.fill_(1.0)
    data = TrainingRows(torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,)))
    params = PruneChannels(ratio=0.3, importance=importance, steps=1, training=None)
    left, full = (multiply_accumulates(m, data.inputs[:1]) for m in (prune_channels(net, params, data), net))
    assert 0.5 * full < left <= 0.7 * full


@pytest.mark.filterwarnings("ignore:Unwrapped parameters:UserWarning")  # Torch-Pruning's, of the whole number
def test_a_whole_number_among_the_parameters_is_no_obstacle(model, rows):
    net = copy.deepcopy(model)
    net.register_parameter("times", nn.Parameter(torch.tensor(3), requires_grad=False))
    with net.graph.inserting_before(node := next(n for n in net.graph.nodes if n.op == "output")):
        times = net.graph.get_attr("times")
        node.args = (net.graph.call_function(torch.mul, (node.args[0], times)),)
    net.recompile()
    params = PruneChannels(ratio=0.3, steps=1, training=Training(epochs=1))
    assert prune_channels(net, params, rows.take(256)).times == 3

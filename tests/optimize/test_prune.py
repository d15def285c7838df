"""Unstructured pruning: how much, which weights, and that training holds it."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.prune import _Masks, prune
from edgewright.recipe import Prune
from tests.optimize.networks import SHORT, accuracy, density


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_prune_reaches_its_sparsity_and_recovers(model, rows, scope):
    pruned = prune(model, Prune(sparsity=0.8, scope=scope, training=SHORT), rows)
    assert density(pruned) == pytest.approx(0.2, abs=0.01)
    assert accuracy(pruned, rows) > accuracy(model, rows) - 0.05


def test_prune_without_training_zeroes_the_smallest_and_touches_no_other(model):
    pruned = prune(model, Prune(sparsity=0.5, scope="layer", training=None), None)
    before, after = model.fc1.weight.detach(), pruned.fc1.weight.detach()
    assert torch.equal(after[after != 0], before[after != 0])
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert not torch.signbit(after[after == 0]).any()


def test_prune_two_of_four_keeps_two_of_every_four_inputs(model):
    pruned = prune(model, Prune(scope="2:4", training=None), None)
    groups = (pruned.fc1.weight != 0).reshape(48, -1, 4).sum(2)
    assert groups.max() == 2


def test_the_default_scope_needs_rows_to_train(model):
    with pytest.raises(UnsupportedError, match="training rows"):
        prune(model, Prune(), None)


@pytest.mark.parametrize(("scope", "kept", "group"), [("1:4", 1, 4), ("4:8", 4, 8), ("2:3", 2, 3)])
def test_prune_keeps_n_of_every_m_inputs(model, scope, kept, group):
    pruned = prune(model, Prune(scope=scope, training=None), None)
    groups = (pruned.fc1.weight != 0).reshape(48, -1, group).sum(2)
    assert (groups == kept).all()


@pytest.mark.parametrize("scope", ["4:4", "5:2", "0:4", "2:4:8", "tensor"])
def test_a_pattern_that_removes_nothing_is_refused(scope):
    with pytest.raises(ValidationError):
        Prune(scope=scope)


def single() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 8), nn.Linear(8, 4))
    with torch.no_grad():
        net[0].weight.fill_(5.0)
        net[1].weight.fill_(0.0)
        net[2].weight.copy_(torch.linspace(0.01, 1, 32).reshape(4, 8))
    return net


@pytest.mark.parametrize("scope", ["global", "rate"])
def test_one_weight_that_stands_out_stays(scope):
    """One weight has no standard deviation, nor has a layer of zeros; NaN compares with nothing."""
    pruned = prune(single(), Prune(sparsity=0.5, scope=scope, training=None), None)
    assert pruned[0].weight.item() == 5.0
    # 20 of 41 weights fall, and 8 of them were zero.
    assert sum(int((layer.weight == 0).sum()) for layer in pruned) == 20


@pytest.mark.parametrize("scope", ["global", "rate", "layer"])
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_of_equal_weights_as_many_fall_as_were_asked(scope, sparsity):
    net = nn.Sequential(nn.Linear(16, 16))
    with torch.no_grad():
        net[0].weight.copy_(torch.ones(16, 16).tril() * 2 - 1)
    params = Prune(sparsity=sparsity, scope=scope, training=None)
    masks = [prune(net, params, None)[0].weight == 0 for _ in range(2)]
    assert float(masks[0].float().mean()) == sparsity
    assert torch.equal(*masks)
    # Not channel by channel.
    assert not masks[0].all(dim=1).any()


def test_what_has_fallen_stays_zero_while_the_network_trains(model, rows, monkeypatch):
    fallen: list[torch.Tensor] = []
    update = _Masks.update

    def watched(self: _Masks, weights: dict[str, torch.Tensor], sparsity: float) -> None:
        update(self, weights, sparsity)
        fallen.append(self.of["fc1.weight"] == 0)

    monkeypatch.setattr(_Masks, "update", watched)
    prune(model, Prune(sparsity=0.8, training=SHORT), rows)
    assert len(fallen) > 3
    assert all((later[earlier]).all() for earlier, later in pairwise(fallen))

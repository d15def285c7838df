"""Unstructured pruning: how much, which weights, and that training holds it."""

import pytest
import torch
from pydantic import ValidationError

from edgewright.errors import UnsupportedError
from edgewright.optimize.prune import prune
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

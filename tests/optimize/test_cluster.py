"""Weight sharing: how many values, which, and what they learn."""

import numpy as np
import pytest
import torch

from edgewright.optimize.cluster import _nearest, cluster
from edgewright.optimize.prune import prune
from edgewright.recipe import Cluster, Prune
from tests.optimize.networks import SHORT, accuracy


@pytest.mark.parametrize("start", ["optimal", "linear", "density", "random"])
def test_cluster_leaves_few_values_and_keeps_zeros(model, start):
    pruned = prune(model, Prune(sparsity=0.5, scope="layer", training=None), None)
    clustered = cluster(pruned, Cluster(clusters=8, start=start), None)
    weight = clustered.fc1.weight.detach()
    assert len(torch.unique(weight)) <= 8
    assert torch.equal(weight == 0, pruned.fc1.weight == 0)


def test_cluster_of_the_whole_model_has_one_codebook(model):
    clustered = cluster(model, Cluster(clusters=12, scope="model"), None)
    weights = [clustered.get_submodule(n).weight.detach().flatten() for n in ("conv1", "conv2", "fc1", "fc2")]
    assert len(torch.unique(torch.cat(weights))) <= 12


def test_cluster_learns_its_shared_values(model, rows):
    params = Cluster(clusters=3, training=SHORT)
    untrained, trained = (
        cluster(model, params.model_copy(update={"training": None}), None),
        cluster(model, params, rows),
    )
    assert len(torch.unique(trained.fc1.weight)) <= 3
    assert accuracy(trained, rows) > accuracy(untrained, rows)


def test_each_group_of_channels_has_its_own_codebook(model):
    clustered = cluster(model, Cluster(clusters=4, scope="group", group_channels=16), None)
    weight = clustered.fc1.weight.detach()
    assert all(len(torch.unique(part)) <= 4 for part in weight.split(16))
    assert len(torch.unique(weight)) > 4
    coarse = cluster(model, Cluster(clusters=4), None)
    off = [((net.fc1.weight - model.fc1.weight) ** 2).sum() for net in (clustered, coarse)]
    assert off[0] < off[1]


def test_the_random_start_follows_its_seed(model):
    one, same, other = (
        cluster(model, Cluster(clusters=5, start="random", seed=seed), None).fc1.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_weight_without_a_value_of_its_sign_goes_to_zero_and_never_across():
    assert _nearest(np.array([0.0, -0.1, 0.1, 1.4], np.float32), np.array([0.0, 1.5], np.float32)).tolist() == [
        0,
        0,
        1,
        1,
    ]

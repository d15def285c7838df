"""Weight sharing: how many values, which, and what they learn."""

import numpy as np
import pytest
import torch

from edgewright.optimize.cluster import cluster, codebook
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


def test_codebook_is_optimal_where_it_can_be_checked():
    rng = np.random.default_rng(1)
    values = np.sort(rng.normal(size=14)).astype(np.float32)
    best = min(
        sum(float(((part - part.mean()) ** 2).sum()) for part in (values[:a], values[a:b], values[b:]))
        for a in range(1, 13)
        for b in range(a + 1, 14)
    )
    found = codebook(values, 3)
    got = float((np.abs(values[:, None] - found[None]).min(1) ** 2).sum())
    assert got == pytest.approx(best, rel=1e-5)

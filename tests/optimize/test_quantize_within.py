"""Layers that int8 costs too much stay in float, as few as it takes, by the validation rows."""

import copy
from pathlib import Path

import pytest
import torch
from prefect import flow
from torch import fx

from edgewright.artifact import Exported
from edgewright.optimize.training import TrainingRows
from edgewright.profile import load_device
from edgewright.recipe import Quantize
from edgewright.store import Store
from tasks.optimize import quantize_within
from tests.optimize.networks import LAYERS, accuracy, blobs, dataset, imported

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def net(model: fx.GraphModule) -> fx.GraphModule:
    """Nearly the same function: `fc2` has a huge weight for a unit that is never on, which takes all of its levels."""
    spoilt = copy.deepcopy(model)
    with torch.no_grad():
        spoilt.fc1.weight[0], spoilt.fc1.bias[0], spoilt.fc2.weight[:, 0] = 0.0, -1.0, 1e4
    return spoilt


def run(net: fx.GraphModule, folder: Path, params: Quantize, limit: float) -> Exported:
    store = Store()
    made = imported(net, store, folder), dataset(net, store, folder, train=blobs(300, 3))

    @flow
    def once() -> None:
        results.append(quantize_within(made[0], params, made[1], load_device("generic_edge_device"), limit))

    results: list[Exported] = []
    once()
    assert isinstance(results[0], Exported)
    return results[0]


def test_only_the_layers_that_int8_spoils_stay_float(net, rows: TrainingRows, edgewright_home, tmp_path):
    assert accuracy(net, rows) > 0.95
    made = run(net, tmp_path, Quantize(), 2.0)
    assert made.sensitivity[0].layer == "fc2"
    assert {noise.layer for noise in made.sensitivity} == set(LAYERS)
    assert made.float_layers == ("fc2",)
    assert any("layer 'fc2'" in note and "stays float32" in note for note in made.notes)
    assert (edgewright_home / "objects").is_dir()


@pytest.mark.slow
def test_a_model_that_bears_int8_keeps_no_layer_in_float(model, edgewright_home, tmp_path):
    made = run(model, tmp_path, Quantize(), 2.0)
    assert made.float_layers == ()
    ratios = [noise.signal_to_noise_db for noise in made.sensitivity]
    assert ratios == sorted(ratios)
    assert min(ratios) > 20


@pytest.mark.slow
def test_layers_that_are_named_are_not_second_guessed(net, edgewright_home, tmp_path):
    made = run(net, tmp_path, Quantize(float_layers=("conv1",)), 2.0)
    assert not any("left in float for accuracy" in note for note in made.notes)
    assert made.float_layers == ("conv1", "fc2")  # whose int8 answers are not the model's: the export's own check

"""`apply` in a child process: artifacts in, artifacts out, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgewright.artifact import Artifact, Dataset, Format
from edgewright.errors import UnsupportedError
from edgewright.intake import torch_graph
from edgewright.optimize import apply
from edgewright.optimize.child import transformed
from edgewright.optimize.rows import calibration_inputs, training_rows
from edgewright.profile import shipped_names
from edgewright.recipe import Cluster, Fuse, Prune, Quantize, Training, load_recipe
from edgewright.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def graph(tmp_path: Path, store: Store) -> Artifact:
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    torch_graph.save(fx.symbolic_trace(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))).eval(), path)
    return store.put(path, Format.TORCH_GRAPH)


def dataset(store: Store, folder: Path, *, train: bool) -> Dataset:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for number, split in enumerate(("calibration", "validation", "test", *(("train",) if train else ()))):
        # Each split holds its own number, so that a row tells where it is from.
        arrays[f"{split}.x.features"] = np.full((40, 6), number, np.float32) + rng.normal(0, 0.01, (40, 6)).astype("f4")
        arrays[f"{split}.y"] = rng.integers(0, 3, 40)
    path = folder / "data.npz"
    np.savez(path, **arrays)
    kept = store.put(path, Format.DATASET)
    return Dataset(artifact=kept, calibration_rows=40, validation_rows=40, test_rows=40)


def test_apply_returns_a_new_artifact_whose_zeros_are_in_the_file(graph, store, tmp_path):
    data = dataset(store, tmp_path, train=True)
    after = apply(graph, Prune(sparsity=0.5, training=Training(epochs=1)), data, store)
    assert after.parent == graph.digest
    assert after.format is Format.TORCH_GRAPH
    weights = [p for n, p in torch_graph.load(after.path).named_parameters() if n.endswith("weight")]
    zero = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert zero == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("technique", [Prune(training=None), Cluster(), Fuse()])
def test_a_weight_that_is_not_finite_is_named_before_any_technique(technique, tmp_path):
    net = fx.symbolic_trace(nn.Sequential(nn.Linear(6, 20), nn.Linear(20, 3)))
    with torch.no_grad():
        net.get_parameter("1.weight")[0, 0] = torch.nan
    with pytest.raises(UnsupportedError, match=r"1 of 60 numbers in 1\.weight are NaN or infinite; mend the model"):
        transformed(net, technique, tmp_path / "no data")


def test_a_later_technique_keeps_the_zeros_of_an_earlier_one(graph, store, tmp_path):
    data = dataset(store, tmp_path, train=True)
    pruned = apply(graph, Prune(sparsity=0.6, training=None), data, store)
    clustered = apply(pruned, Cluster(clusters=4, training=Training(epochs=1)), data, store)
    before, after = (torch_graph.load(a.path).get_parameter("0.weight") for a in (pruned, clustered))
    assert torch.equal(before == 0, after == 0)
    assert len(torch.unique(after)) <= 4


def test_the_same_input_gives_the_same_digest(graph, store, tmp_path):
    data = dataset(store, tmp_path, train=True)
    technique = Prune(sparsity=0.5, training=Training(epochs=2))
    assert apply(graph, technique, data, store).digest == apply(graph, technique, data, store).digest


def test_training_without_training_rows_is_refused(graph, store, tmp_path):
    with pytest.raises(UnsupportedError, match="training rows"):
        apply(graph, Prune(), dataset(store, tmp_path, train=False), store)


def test_quantize_belongs_to_the_exporters(graph, store, tmp_path):
    with pytest.raises(UnsupportedError, match="exported"):
        apply(graph, Quantize(), dataset(store, tmp_path, train=False), store)


def test_fuse_needs_no_rows(graph, store, tmp_path):
    assert apply(graph, Fuse(), dataset(store, tmp_path, train=False), store).parent == graph.digest


def test_techniques_see_neither_validation_nor_test_rows(store, tmp_path):
    data = dataset(store, tmp_path, train=True)
    rows = training_rows(data.artifact.path)
    assert rows is not None
    assert rows.inputs.round().unique().tolist() == [3.0]
    assert calibration_inputs(data.artifact.path).round().unique().tolist() == [3.0]


def test_calibration_rows_are_used_where_there_is_no_training_split(store, tmp_path):
    data = dataset(store, tmp_path, train=False)
    assert training_rows(data.artifact.path) is None
    assert calibration_inputs(data.artifact.path).round().unique().tolist() == [0.0]


@pytest.mark.parametrize("name", shipped_names("recipe"))
def test_every_shipped_recipe_is_valid(name):
    recipe = load_recipe(name)
    assert recipe.description
    assert name == "float32" or recipe.techniques

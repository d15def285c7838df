"""Nothing that trains, calibrates or chooses reads the test rows: poisoned, they change nothing."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx

from edgewright.artifact import Artifact, Dataset, Format, Precision
from edgewright.export import export
from edgewright.optimize.child import layer_noise, transformed
from edgewright.profile import Platform
from edgewright.recipe import (
    AnyTechnique,
    Cluster,
    CompactWeights,
    Decompose,
    Distill,
    Fuse,
    Prune,
    PruneChannels,
    Quantize,
    Technique,
    Training,
    TrainInt8,
    TrainQuantization,
)
from edgewright.store import Store
from tests.optimize.networks import blobs, dataset, imported

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*pruning.*:UserWarning")

BRIEF = Training(epochs=1, distill=0.5)
TECHNIQUES: list[AnyTechnique] = [
    Prune(sparsity=0.6, training=BRIEF),
    Prune(scope="2:4", training=BRIEF),
    TrainQuantization(training=BRIEF),
    TrainInt8(training=BRIEF),
    Cluster(training=BRIEF),
    CompactWeights(price=1e-6),
    Distill(training=BRIEF, hints=1.0),
    Distill(student="width", training=BRIEF),
    PruneChannels(steps=1, training=BRIEF),
    Decompose(rank="ratio", ratio=0.5, training=BRIEF),
    Decompose(rank="search", convolution="tucker"),
    Fuse(),
]


def test_every_technique_of_a_recipe_is_looked_at():
    known = set(Technique.known.values()) - {Quantize}  # the exporter's, tested below
    assert known == {type(technique) for technique in TECHNIQUES}


@pytest.fixture(scope="module")
def data(model: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same data three times: as it is, with poisoned test rows, with poisoned training rows."""
    folder = tmp_path_factory.mktemp("splits")
    clean = dataset(model, Store(folder / "store"), folder, train=blobs(400, 3)).artifact.path
    made = {"clean": clean}
    for split in ("test", "train"):
        with np.load(clean) as arrays:
            poisoned = dict(arrays)
        for name in (f"{split}.x.image", *(("calibration.x.image",) if split == "train" else ())):
            noise = np.random.default_rng(1).normal(0, 9, poisoned[name].shape).astype(np.float32)
            poisoned[name] = noise if split == "train" else np.full_like(noise, np.nan)
        poisoned[f"{split}.y"] = (poisoned[f"{split}.y"] + 1) % 4
        made[split] = folder / f"{split}.npz"
        np.savez(made[split], **poisoned)
    return made


def weights(net: fx.GraphModule) -> list[torch.Tensor]:
    return list(net.state_dict().values())


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: f"{t.technique}-{TECHNIQUES.index(t)}")
def test_test_rows_change_no_technique(model, data, technique):
    found = {
        name: weights(transformed(copy.deepcopy(model), technique, path))
        for name, path in data.items()
        if name != "train"
    }
    assert same(found["clean"], found["test"])


def test_training_rows_do_change_what_is_trained(model, data):
    """Else the test above could not fail."""
    for technique in (Prune(sparsity=0.6, training=BRIEF), CompactWeights(price=1e-6)):
        one, other = (weights(transformed(copy.deepcopy(model), technique, data[name])) for name in ("clean", "train"))
        assert not same(one, other)


def test_test_rows_change_neither_sensitivity_nor_calibration(model, data, tmp_path):
    store = Store(tmp_path / "store")
    made = imported(model, store, tmp_path)
    assert made.graph is not None
    digests, noise = {}, {}
    for name, path in data.items():
        kept: Artifact = store.put(path, Format.DATASET)
        rows = Dataset(artifact=kept, calibration_rows=128, validation_rows=300, test_rows=300)
        params = Quantize(calibration="mse")
        exported = export(made, rows, Platform.EDGE_DEVICE, Precision.INT8, store, quantization=params)
        digests[name] = exported.artifact.digest
        noise[name] = layer_noise(made.graph.path, kept.path, "mse", 99.9)
    assert digests["clean"] == digests["test"] != digests["train"]
    assert noise["clean"] == noise["test"] != noise["train"]

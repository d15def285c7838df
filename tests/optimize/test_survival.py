"""What a recipe did to the weights stands in the file: zeros and shared values are counted there."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import fx

from edgewright.artifact import Dataset, Format, ImportedModel, Precision
from edgewright.export import export, tflite
from edgewright.export.stored import describe
from edgewright.intake import torch_graph
from edgewright.optimize.child import transformed
from edgewright.profile import Platform
from edgewright.recipe import Cluster, Prune, Training
from edgewright.store import Store
from tests.optimize.networks import blobs, dataset, density, imported

CLUSTERS = 8
SIZES = {144, 24 * 16 * 9, 48 * 96, 48 * 4}


class Case:
    """The network after two steps of a recipe, neither of which knew of the exporter's folding of BatchNorm."""

    def __init__(self, net: fx.GraphModule, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.dataset: Dataset = dataset(net, self.store, folder, train=blobs(400, 3))
        brief, rows = Training(epochs=1), self.dataset.artifact.path
        pruned = transformed(net, Prune(sparsity=0.6, training=brief), rows)
        self.net = transformed(pruned, Cluster(clusters=CLUSTERS, training=brief), rows)
        self.zeros = round((1 - density(self.net)) * sum(SIZES))
        torch_graph.save(self.net, folder / "net.safetensors")
        graph = self.store.put(folder / "net.safetensors", Format.TORCH_GRAPH, parent="an earlier step")
        self.model: ImportedModel = imported(net, self.store, folder).model_copy(update={"graph": graph})

    def export(self, platform: Platform, precision: Precision) -> Path:
        """The file."""
        return export(self.model, self.dataset, platform, precision, self.store).artifact.path


@pytest.fixture(scope="module")
def case(model: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(model, tmp_path_factory.mktemp("case"))


def weights_in(path: Path) -> list[np.ndarray]:
    """The weights of the four layers as stored, (outputs, ...)."""
    if path.suffix == ".onnx":
        graph = onnx.load(path).graph
        stored = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
        dense = [n for n in graph.node if n.op_type in {"Gemm", "MatMul"} and not _is_transposed(n)]
        transposed = {stored.get(n.input[1], n.input[1]) for n in dense}
        found = [(t.name, onnx.numpy_helper.to_array(t)) for t in graph.initializer]
        return [w.T if name in transposed else w for name, w in found if w.size in SIZES]
    held = tflite.load(path)
    made = []
    for tensor in held.subgraphs[0].tensors:
        data = held.buffers[tensor.buffer].data
        if data is not None and int(np.prod(tensor.shape)) in SIZES:
            weight = np.asarray(data).view(tflite.DTYPES[tensor.type]).reshape(tensor.shape)
            made.append(weight)
    return made


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


def test_the_recipe_did_what_the_tests_below_look_for(case):
    assert case.zeros > 0.55 * sum(SIZES)


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.EDGE_DEVICE])
def test_zeros_and_clusters_are_in_the_float_file(case, platform):
    weights = weights_in(case.export(platform, Precision.FLOAT32))
    assert sum(w.size for w in weights) == sum(SIZES)
    assert sum(int((w == 0).sum()) for w in weights) == case.zeros
    assert all(len(np.unique(w)) <= CLUSTERS for w in weights)


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.EDGE_DEVICE])
def test_zeros_and_clusters_survive_int8(case, platform):
    weights = weights_in(case.export(platform, Precision.INT8))
    assert all(w.dtype == np.int8 for w in weights)
    assert sum(w.size for w in weights) == sum(SIZES)
    assert sum(int((w == 0).sum()) for w in weights) >= case.zeros
    # A scale for each channel gives the same shared value another number there: at most as many in each channel.
    for weight in weights:
        channels = weight if weight.shape[0] != 1 else np.moveaxis(weight, -1, 0)
        assert all(len(np.unique(channel)) <= CLUSTERS for channel in channels)


def test_core_ml_holds_palettes(case):
    stored = describe(case.export(Platform.IOS, Precision.FLOAT32))
    palettes = [w for w in stored.weights if w.dtype.startswith("palette")]
    # Layers below 256 numbers are stored plain: their palette would save nothing.
    assert sum(w.tensors for w in palettes) > 0
    assert stored.sparsity == pytest.approx(case.zeros / sum(SIZES), abs=0.02)

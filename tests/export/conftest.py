"""A small convolutional network, exported once for every platform and precision."""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgewright.artifact import Dataset, Exported, Format, ImportedModel, ModelTask, Precision
from edgewright.export import export
from edgewright.intake import torch_graph
from edgewright.intake.onnx_graph import import_onnx
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import TensorSpec

ROWS = 60


def network() -> nn.Sequential:
    torch.manual_seed(7)
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(128, 10), nn.Softmax(-1))
    batch_norm = model[1]
    assert isinstance(batch_norm, nn.BatchNorm2d)
    with torch.no_grad():  # statistics as after training, so that folding it wrongly would show
        batch_norm.running_mean = torch.randn(8) / 4
        batch_norm.running_var = torch.rand(8) + 0.5
        batch_norm.weight.copy_(torch.rand(8) + 0.5)
        batch_norm.bias.copy_(torch.randn(8) / 4)
    return model.eval()


def dataset(store: Store, folder: Path, name: str, rows: np.ndarray) -> Dataset:
    path = folder / "data.npz"
    np.savez(path, **{f"calibration.x.{name}": rows, "calibration.y": np.zeros(len(rows), np.int64)})
    artifact = store.put(path, Format.DATASET)
    return Dataset(artifact=artifact, calibration_rows=len(rows), validation_rows=0, test_rows=0)


class Case:
    """A model in the store, its data, its own answers, and its exports by (platform, precision)."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.rows = np.random.default_rng(3).random((ROWS, 1, 8, 8), dtype=np.float32)
        source = network()
        with torch.no_grad():
            self.answers = source(torch.from_numpy(self.rows)).numpy()
        torch.onnx.export(
            source,
            (torch.zeros(2, 1, 8, 8),),
            folder / "digits.onnx",
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        saved = self.store.put(folder / "digits.onnx", Format.ONNX)
        torch_graph.save(import_onnx(onnx.load(saved.path)), folder / "digits.graph")
        self.model = ImportedModel(
            name="digits",
            source=saved,
            onnx=saved,
            graph=self.store.put(folder / "digits.graph", Format.TORCH_GRAPH, parent=saved.digest),
            inputs=(TensorSpec("image", (-1, 1, 8, 8), "float32"),),
            outputs=(TensorSpec("probabilities", (-1, 10), "float32"),),
            task=ModelTask.CLASSIFICATION,
            labels=tuple("0123456789"),
        )
        self.dataset = dataset(self.store, folder, "image", self.rows)
        self.exported = cache(self._export)

    def _export(self, platform: Platform, precision: Precision) -> Exported:
        return export(self.model, self.dataset, platform, precision, self.store)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Case:
    with warnings.catch_warnings():  # of torch's exporter; the product runs it in a child process
        warnings.simplefilter("ignore")
        return Case(tmp_path_factory.mktemp("digits"))

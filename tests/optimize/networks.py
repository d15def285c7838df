"""A small convolutional network that learns in a second where a bright blob lies, and what the tests ask of it."""

from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from edgewright.artifact import Dataset, Format, ImportedModel, ModelTask
from edgewright.intake import torch_graph
from edgewright.optimize.training import TrainingRows, predictions
from edgewright.recipe import Training
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import TensorSpec

CLASSES = 4
LAYERS = ("conv1", "conv2", "fc1", "fc2")
SHORT = Training(epochs=6, batch_size=64, learning_rate=3e-3)


class Net(nn.Module):
    """Two convolutions, one with BatchNorm, and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.flat = nn.Flatten()
        self.fc1 = nn.Linear(96, 48)
        self.fc2 = nn.Linear(48, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, 8, 8) to (N, 4) logits."""
        x = torch.relu(self.norm(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        return self.fc2(torch.relu(self.fc1(self.flat(self.pool(x)))))


def blobs(count: int, seed: int = 0) -> TrainingRows:
    """Where a bright blob lies in a noisy 8 x 8 image: which quarter."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.normal(0, 0.5, (count, 1, 8, 8))
    for image, quarter in zip(x[:, 0], y, strict=True):
        top, left = 4 * (quarter // 2) + rng.integers(0, 3), 4 * (quarter % 2) + rng.integers(0, 3)
        image[top : top + 2, left : left + 2] += 1.6
    return TrainingRows(torch.tensor(x, dtype=torch.float32), torch.tensor(y))


def accuracy(net: nn.Module, rows: TrainingRows) -> float:
    """Share of right answers."""
    return float((predictions(net, rows.inputs).argmax(1) == rows.targets).float().mean())


def density(net: nn.Module) -> float:
    """Share of the weights that are not zero."""
    weights = torch.cat([p.flatten() for n, p in net.named_parameters() if n.endswith("weight") and "norm" not in n])
    return float((weights != 0).float().mean())


def imported(net: fx.GraphModule, store: Store, folder: Path) -> ImportedModel:
    """As it comes through intake; the ONNX of it is not there, and what needs it is not tested with this."""
    torch_graph.save(net, folder / "blobs.safetensors")
    graph = store.put(folder / "blobs.safetensors", Format.TORCH_GRAPH, parent="its source")
    return ImportedModel(
        name="blobs",
        source=graph,
        onnx=graph,
        graph=graph,
        inputs=(TensorSpec("image", (-1, 1, 8, 8), "float32"),),
        outputs=(TensorSpec("logits", (-1, CLASSES), "float32"),),
        task=ModelTask.CLASSIFICATION,
        labels=tuple("abcd"),
    )


def dataset(net: nn.Module, store: Store, folder: Path, *, train: TrainingRows) -> Dataset:
    """Calibration rows are training rows; validation and test rows are others."""
    splits = {"train": train, "calibration": train.take(128), "validation": blobs(300, 1), "test": blobs(300, 2)}
    arrays: dict[str, np.ndarray] = {}
    for split, rows in splits.items():
        arrays |= {f"{split}.x.image": rows.inputs.numpy(), f"{split}.y": rows.targets.numpy()}
    for split in ("validation", "test"):
        answers = predictions(net, splits[split].inputs).numpy()
        arrays[f"{split}.reference.logits"] = answers.astype(np.float64)
        arrays[f"{split}.predicted"] = answers.argmax(1)
    np.savez(folder / "data.npz", **arrays)
    kept = store.put(folder / "data.npz", Format.DATASET)
    return Dataset(artifact=kept, calibration_rows=128, validation_rows=300, test_rows=300)

"""Small models of each source, trained or initialised here; each is made once for the whole run."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the reference data in ../shared is absent")
    return SHARED


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("intake")


@pytest.fixture(scope="session")
def digits_npz(folder) -> Path:
    digits = load_digits()
    path = folder / "digits.npz"
    np.savez(path, x=digits.images.astype(np.uint8), y=digits.target)
    return path


@pytest.fixture(scope="session")
def cancer_npz(folder) -> Path:
    cancer = load_breast_cancer()
    path = folder / "cancer.npz"
    np.savez(path, x=cancer.data, y=cancer.target)
    return path


@pytest.fixture(scope="session")
def digits_cnn():
    """A CNN with live BatchNorm statistics, unlike what folding would leave."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, 10),
    )
    model.train()
    for _ in range(5):
        model(torch.rand(64, 1, 8, 8))
    return model.eval()


@pytest.fixture(scope="session")
def digits_pt2(folder, digits_cnn) -> Path:
    import torch

    path = folder / "digits_cnn.pt2"
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(digits_cnn, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


@pytest.fixture
def pickled(tmp_path):
    """Write an object as a plain pickle."""

    def write(thing, name="model.pkl"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(thing))
        return path

    return write

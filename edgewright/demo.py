"""Two real models, trained in seconds on data that scikit-learn carries: what ``make demo`` deploys.

Runs in a child process; see `flows.demo`.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

__all__ = ["make_breast_cancer", "make_digits_cnn"]

_SEED = 0
_EPOCHS = 12
_BATCH = 64


def make_digits_cnn(folder: Path) -> None:
    """Train a CNN on 1,257 handwritten digits; writes ``digits_cnn.pt2`` and ``digits.npz`` with 540 test rows."""
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)  # batches this small are slower on two threads, and much slower on a busy machine
    images, labels = load_digits(return_X_y=True)
    scaled = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)  # grey values are 0 to 16
    x_train, x_test, y_train, y_test = train_test_split(
        scaled, labels, test_size=0.3, random_state=_SEED, stratify=labels
    )
    np.savez_compressed(folder / "digits.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    network = _train(_cnn(), torch.from_numpy(x_train), torch.from_numpy(y_train)).eval()
    # The example input is stored with the program, whole storage and all: a fresh small tensor.
    example = torch.zeros(2, 1, 8, 8)
    program = torch.export.export(network, (example,), dynamic_shapes={"input": {0: torch.export.Dim("batch")}})
    torch.export.save(program, folder / "digits_cnn.pt2")


def make_breast_cancer(folder: Path) -> None:
    """Fit a scaler and boosted trees; writes ``breast_cancer.pkl`` and its tables for training and test."""
    table = load_breast_cancer(as_frame=True).frame
    train, test = train_test_split(table, test_size=0.3, random_state=_SEED, stratify=table["target"])
    model = make_pipeline(StandardScaler(), GradientBoostingClassifier(random_state=_SEED))
    model.fit(train.drop(columns="target"), train["target"])
    train.to_csv(folder / "breast_cancer_train.csv", index=False)
    test.to_csv(folder / "breast_cancer_test.csv", index=False)
    (folder / "breast_cancer.yaml").write_text(
        "path: breast_cancer_train.csv\ntest_path: breast_cancer_test.csv\ntarget: target\n"
    )
    (folder / "breast_cancer.pkl").write_bytes(pickle.dumps(model))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _cnn() -> nn.Module:
    return nn.Sequential(
        *(_block(1, 32), _block(32, 64), nn.MaxPool2d(2), _block(64, 64), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def _train(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    # As many steps as batches, an epoch's short last one included: OneCycleLR raises at the step after its last.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=_EPOCHS * -(-len(x) // _BATCH))
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(x)).split(_BATCH):
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network

"""Four networks for handwritten digits: small, small and fine-tuned, large, and one that is far too slow."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

_BATCH = 64


def make(folder: str) -> None:
    """Writes ``digits.npz`` and ``small.pt2``, ``tuned.pt2``, ``large.pt2``, ``slow.pt2``; runs in a child process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy((images / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    y = torch.from_numpy(labels)
    order = torch.randperm(len(x))
    first, later, test = order[:500], order[500:1250], order[1250:]
    train = torch.cat([first, later])
    np.savez(
        Path(folder) / "digits.npz",
        x_train=x[train].numpy(),
        y_train=y[train].numpy(),
        x_test=x[test].numpy(),
        y_test=y[test].numpy(),
    )
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    _train(small, x[first], y[first], epochs=6, rate=1e-3)
    _save(small, Path(folder) / "small.pt2")
    _train(small, x[train], y[train], epochs=4, rate=1e-4)
    _save(small, Path(folder) / "tuned.pt2")
    large = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    _train(large, x[train], y[train], epochs=15, rate=1e-3)
    _save(large, Path(folder) / "large.pt2")
    # Wide padding makes the images large, so that few weights cost much time.
    slow = [nn.Conv2d(1, 64, 3, padding=30), nn.ReLU()]
    for _ in range(4):
        slow += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    _save(nn.Sequential(*slow, nn.MaxPool2d(33), nn.Flatten(), nn.Linear(256, 10)), Path(folder) / "slow.pt2")


def _train(network: nn.Module, x: torch.Tensor, y: torch.Tensor, *, epochs: int, rate: float) -> None:
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(_BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()


def _save(network: nn.Module, path: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(network.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    network.train()

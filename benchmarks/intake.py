"""How long a PyTorch model takes to come inside, beside `torch.export.load` and one run of it.

``make bench-intake`` runs it and writes ``benchmarks/results/intake.json``: MobileNetV2 and EfficientNet-B0 of
torchvision at 224 x 224 (random weights, a free batch), 24 rows. Both ways are timed as a user meets them, from a
process that has imported nothing, and `take_in` also as a later model of the same command does: its fork server is
there, so imports of torch are left out of the other side as well. Limit, from the project's plan: twice.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.zoo_environment import activate, ensure_site, import_torchvision
from edgewright.artifact import ModelTask
from edgewright.data import DataSpec
from edgewright.intake import take_in
from edgewright.store import Store
from edgewright.validate.machine import machine

RESULT = Path(__file__).parent / "results" / "intake.json"
NETWORKS = ("mobilenet_v2", "efficientnet_b0")
TRAINING_ROWS, TEST_ROWS = 16, 8
REPEATS = 3
LIMIT_RATIO = 2.0


def main() -> None:
    ensure_site()
    with tempfile.TemporaryDirectory() as folder:
        found = {network: _measured(network, Path(folder)) for network in NETWORKS}
    result = {"processor": machine(), "repeats": REPEATS, "limit_ratio": LIMIT_RATIO, "networks": found}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(RESULT.read_text())


def save(network: str, folder: str) -> None:
    """The network and its rows, as files."""
    import torch

    activate()
    import_torchvision()
    from torchvision import models

    torch.manual_seed(0)
    module = models.get_model(network, weights=None).eval()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=batch)
    torch.export.save(program, Path(folder) / f"{network}.pt2")
    rows = np.random.default_rng(0).normal(size=(TRAINING_ROWS + TEST_ROWS, 3, 224, 224)).astype(np.float32)
    parts = {"train": rows[:TRAINING_ROWS], "test": rows[TRAINING_ROWS:]}
    answers = {f"y_{part}": np.zeros(len(x), np.float32) for part, x in parts.items()}
    np.savez(Path(folder) / f"{network}.npz", **{f"x_{part}": x for part, x in parts.items()}, **answers)


def load_and_run(network: str, folder: str) -> None:
    """What nobody can do without; prints the seconds of the imports, and of the rest."""
    began = time.perf_counter()
    import torch

    imported = time.perf_counter()
    rows = np.load(Path(folder) / f"{network}.npz")
    module = torch.export.load(Path(folder) / f"{network}.pt2").module()
    with torch.no_grad():
        module(torch.from_numpy(np.concatenate([rows["x_train"], rows["x_test"]])))
    print(json.dumps([imported - began, time.perf_counter() - imported]))


def take_in_twice(network: str, folder: str) -> None:
    """Prints the seconds of a command's first intake, and of one that finds its fork server."""
    print(json.dumps([_intake_seconds(network, Path(folder)) for _ in range(2)]))


def _intake_seconds(network: str, folder: Path) -> float:
    data = DataSpec(path=folder / f"{network}.npz", task=ModelTask.NONE)
    with tempfile.TemporaryDirectory() as store:
        began = time.perf_counter()
        take_in(folder / f"{network}.pt2", data, Store(Path(store)))
        return time.perf_counter() - began


def _measured(network: str, folder: Path) -> dict[str, float]:
    _run("save", network, folder)
    pairs = [(_run("load_and_run", network, folder), _run("take_in_twice", network, folder)) for _ in range(REPEATS)]
    imports, rest = (statistics.median(found) for found in zip(*(plain for plain, _ in pairs), strict=True))
    first, later = (statistics.median(found) for found in zip(*(ours for _, ours in pairs), strict=True))
    found = {
        "import_torch_s": imports,
        "load_and_run_s": rest,
        "first_intake_s": first,
        "later_intake_s": later,
        "first_ratio": first / (imports + rest),
        "later_ratio": later / rest,
    }
    return {name: round(value, 2) for name, value in found.items()}


def _run(function: str, network: str, folder: Path) -> tuple[float, float]:
    code = f"from benchmarks.intake import {function}; {function}({network!r}, {str(folder)!r})"
    ended = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return tuple(json.loads(ended.stdout.splitlines()[-1])) if ended.stdout else (0.0, 0.0)


if __name__ == "__main__":
    main()

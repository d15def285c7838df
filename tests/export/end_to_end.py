"""A module's answers as the file for a platform gives them, and as the module itself does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgewright.artifact import ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.export import export
from edgewright.export.runs import outputs_of
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store

__all__ = ["exported_answers", "exported_outputs", "largest_difference"]


def exported_answers(
    module: nn.Module, rows: NDArray[Any], platform: Platform, precision: Precision, folder: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The file's answers and the module's, of its first output; the rows calibrate, too."""
    found, expected = exported_outputs(module, rows, platform, precision, folder)
    return found[0], expected[0]


def exported_outputs(
    module: nn.Module,
    rows: NDArray[Any] | Mapping[str, NDArray[Any]],
    platform: Platform,
    precision: Precision,
    folder: Path,
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Likewise of every output; of several inputs ``rows`` has those of each, by its name, in order."""
    inputs = dict(rows) if isinstance(rows, Mapping) else {"": rows}
    examples = tuple(torch.from_numpy(array[:2]) for array in inputs.values())
    batch = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    torch.export.save(torch.export.export(module.eval(), examples, dynamic_shapes=batch), folder / "m.pt2")
    answers = np.zeros(len(next(iter(inputs.values()))), np.float32)
    arrays = {f"x_{s}{'.' * bool(n)}{n}": array for s in ("train", "test") for n, array in inputs.items()}
    np.savez(folder / "d.npz", **arrays, y_train=answers, y_test=answers)
    store = Store(folder / "store")
    taken = take_in(folder / "m.pt2", DataSpec(path=folder / "d.npz", task=ModelTask.NONE), store)
    made = export(taken.model, taken.dataset, platform, precision, store)
    names = [spec.name for spec in made.outputs]
    given = {spec.name: inputs.get(spec.name, inputs.get("")) for spec in made.inputs}
    found = outputs_of(made.artifact.path, made.artifact.format, given, names)
    with torch.no_grad():
        expected = module(*(torch.from_numpy(array) for array in inputs.values()))
    tensors = expected if isinstance(expected, tuple) else (expected,)
    return [found[name] for name in names], [tensor.numpy() for tensor in tensors]


def largest_difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """By the largest answer."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())

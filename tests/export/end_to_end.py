"""A module's answers as the file for a platform gives them, and as the module itself does."""

from pathlib import Path

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

__all__ = ["exported_answers", "largest_difference"]


def exported_answers(
    module: nn.Module, rows: NDArray[np.float32], platform: Platform, precision: Precision, folder: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The file's answers and the module's, of its first output; the rows calibrate, too."""
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module.eval(), (torch.from_numpy(rows[:2]),), dynamic_shapes=batch)
    torch.export.save(program, folder / "m.pt2")
    answers = np.zeros(len(rows), np.float32)
    np.savez(folder / "d.npz", x_train=rows, y_train=answers, x_test=rows, y_test=answers)
    store = Store(folder / "store")
    taken = take_in(folder / "m.pt2", DataSpec(path=folder / "d.npz", task=ModelTask.NONE), store)
    made = export(taken.model, taken.dataset, platform, precision, store)
    names = [spec.name for spec in made.outputs]
    given = {spec.name: rows for spec in made.inputs}
    found = outputs_of(made.artifact.path, made.artifact.format, given, names)[names[0]]
    with torch.no_grad():
        expected = module(torch.from_numpy(rows))
    return found, (expected if isinstance(expected, torch.Tensor) else expected[0]).numpy()


def largest_difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """By the largest answer."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())

"""The rows that a file is compared with its model on."""

from pathlib import Path

import numpy as np

from edgewright.artifact import Format
from edgewright.export.declaration import File
from edgewright.export.runs import Arrays

__all__ = ["ROWS", "SPLITS", "fixed_batch", "real_rows"]

ROWS = 200
SPLITS = ("validation", "calibration")


def fixed_batch(reference: File) -> int:
    """How many rows a model takes at once; 1 where that is free."""
    if reference.form is not Format.ONNX:
        return 1
    from edgewright.export import onnx_file

    # A free axis is -1, an input without axes has no rows.
    sizes = [spec.shape[0] for spec in onnx_file.tensors(reference.path).inputs if spec.shape]
    return max([1, *sizes])


def real_rows(
    dataset: Path, inputs: list[str], most: int = ROWS, *, kind: str = "x", splits: tuple[str, ...] = SPLITS
) -> Arrays:
    """Rows of the first split, the rest of the next where it is too short, each spread evenly."""
    parts: list[Arrays] = []
    lacking = most
    with np.load(dataset, allow_pickle=False) as arrays:
        for split in splits:
            if not lacking or any(f"{split}.{kind}.{name}" not in arrays for name in inputs):
                continue
            columns = {name: arrays[f"{split}.{kind}.{name}"] for name in inputs}
            count = len(next(iter(columns.values())))
            # Spread, since data is often sorted by class; each row once, where there are fewer than asked for.
            chosen = np.unique(np.linspace(0, count - 1, lacking).astype(int)) if count else np.arange(0)
            parts.append({name: column[chosen] for name, column in columns.items()})
            lacking -= len(chosen)
    return {name: np.concatenate([part[name] for part in parts]) for name in inputs} if lacking < most else {}

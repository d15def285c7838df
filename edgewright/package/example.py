"""One raw test row, as an application would hand it in: the file that a first try of a bundle needs."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset, ImportedModel
from edgewright_runtime.bundle.manifest import Column

__all__ = ["write_example"]


def write_example(folder: Path, model: ImportedModel, dataset: Dataset) -> Path:
    """``example.json`` with a table row, or with several inputs by name; one raw array: ``example.npy``."""
    with np.load(dataset.artifact.path, allow_pickle=False) as stored:
        raw_row = str(stored["test.raw"][0]) if "test.raw" in stored.files else None
        first = {spec.name: stored[f"test.x.{spec.name}"][:1] for spec in model.inputs}
    columns = model.preprocessing.columns
    if columns:
        encoded = first[model.inputs[0].name][0]
        # The table's own row where it was kept, else values that encode to the same numbers.
        row = (
            json.loads(raw_row) if raw_row else {c.name: _decoded(v, c) for c, v in zip(columns, encoded, strict=True)}
        )
        path = folder / "example.json"
        path.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path
    raw = {name: _unscaled(array, model) for name, array in first.items()}
    if len(raw) == 1:
        path = folder / "example.npy"
        path.write_bytes(_npy(next(iter(raw.values()))))
        return path
    path = folder / "example.json"
    path.write_text(json.dumps({name: array.tolist() for name, array in raw.items()}) + "\n", encoding="utf-8")
    return path


def _decoded(value: np.generic, column: Column) -> Any:
    """The raw value that encodes to this one; a category that training did not see has no name, so it is left open."""
    if column.kind == "number":
        return None if np.isnan(value) else float(value)
    words = {code: word for word, code in column.vocabulary}
    return words.get(int(value))


def _unscaled(array: NDArray[np.generic], model: ImportedModel) -> NDArray[np.generic]:
    # Whole numbers, such as token ids, are not scaled on the way in.
    if array.dtype.kind != "f":
        return array
    real = array.astype(np.float32) / model.preprocessing.scale + model.preprocessing.mean
    return np.asarray(real, dtype=np.float32)


def _npy(array: NDArray[np.generic]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return content.getvalue()

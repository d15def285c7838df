"""An exported file against the model that it was converted from, on real rows. Runs in a child process."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Format
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export.gpu import gpu_report
from edgewright.export.parting import first_parting
from edgewright.export.runs import Arrays, outputs_of, trace_of

__all__ = ["check"]

_ROWS = 200
# A comparison within rounding of a threshold may fall on either side: up to this share, such rows are only told.
_TIES_SHARE = 0.01
_READERS = {Format.TFLITE: "tflite", Format.MLPACKAGE: "mlpackage", Format.ONNX: "onnx_file"}


@dataclass(frozen=True)
class _File:
    path: Path
    form: Format

    @classmethod
    def of(cls, fields: dict[str, str]) -> "_File":
        return cls(Path(fields["path"]), Format(fields["format"]))


def check(
    *,
    reference: dict[str, str],
    exported: dict[str, str],
    dataset: str,
    inputs: list[str],
    outputs: list[str],
    limit: float | None,
    has_thresholds: bool,
) -> dict[str, Any]:
    """What the exported file declares, and how far its outputs lie from the reference's.

    Args:
        reference: {path, format} of the ONNX import, or of the torch graph where it was changed since.
        exported: {path, format} of the converted file.
        dataset: the ``.npz`` with the rows.
        inputs: names, in the model's order.
        outputs: names, in the model's order.
        limit: largest difference over the largest magnitude of each output; None: nothing is compared.
        has_thresholds: the model's outputs jump, so a row may differ by rounding of one comparison.

    Raises:
        ConversionError: an output is farther off, with the first layer where the two part.
    """
    target = _File.of(exported)
    declared: dict[str, Any] = importlib.import_module(f"edgewright.export.{_READERS[target.form]}").tensors(
        str(target.path)
    )
    notes: list[str] = []
    about_gpu = gpu_report(target.path) if target.form is Format.TFLITE else []
    if limit is not None:
        rows = _real_rows(Path(dataset), inputs)
        notes = (
            _compare(_File.of(reference), target, rows, outputs, limit, has_thresholds=has_thresholds) if rows else []
        )
    return {**declared, "notes": [*notes, *about_gpu]}


def _compare(
    reference: _File, target: _File, rows: Arrays, outputs: list[str], limit: float, *, has_thresholds: bool
) -> list[str]:
    try:
        found = outputs_of(target.path, target.form, rows, outputs)
    except UnsupportedError as e:
        return [str(e)]
    expected = outputs_of(reference.path, reference.form, rows, outputs)
    count = len(next(iter(rows.values())))
    notes = []
    for name in outputs:
        off = _relative(expected[name], found[name])
        beyond = np.flatnonzero(~(off <= limit))
        if not len(beyond):
            continue
        if (has_thresholds or expected[name].dtype.kind != "f") and len(beyond) <= _TIES_SHARE * count:
            notes.append(f"output '{name}': {len(beyond)} of {count} rows differ, by a tie at a threshold")
            continue
        worst = int(np.nan_to_num(off, nan=np.inf).argmax())
        row = {key: column[worst : worst + 1] for key, column in rows.items()}
        lost = _not_finite(expected[name], found[name])
        if lost:
            raise ConversionError(
                f"{target.path.name}: output '{name}' is NaN or infinite in {lost} of {count} real rows, where the"
                f" source's is finite: its precision is too narrow, float32 holds more; "
                f"{_place(reference, target, row, limit)}"
            )
        raise ConversionError(
            f"{target.path.name}: output '{name}' is off by {off[worst]:.2g} of its largest magnitude (limit {limit:g})"
            f" in {len(beyond)} of {count} real rows; {_place(reference, target, row, limit)}"
        )
    return notes


def _relative(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """For each row the largest difference, over the largest magnitude of all rows; labels: 1 where they differ."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, found))
    if a.shape != b.shape:
        raise ConversionError(f"an output has shape {found.shape}, the source's has {expected.shape}")
    if expected.dtype.kind != "f":
        return np.asarray((a != b).any(axis=1), np.float64)
    scale = float(np.nanmax(np.abs(a), initial=0.0)) or 1.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.asarray(np.where(same, 0.0, np.abs(a - b)).max(axis=1) / scale)


def _not_finite(expected: np.ndarray, found: np.ndarray) -> int:
    """In how many rows only the exported file's numbers are none."""
    if expected.dtype.kind != "f":
        return 0
    lost = np.isfinite(expected) & ~np.isfinite(found)
    return int(lost.reshape(len(lost), -1).any(axis=1).sum())


def _place(reference: _File, target: _File, row: Arrays, limit: float) -> str:
    if target.path.suffix == ".ort":
        return "the .onnx that it was made of agrees, so ONNX Runtime's own fusions are the cause: leave ort_format off"
    parting = first_parting(
        trace_of(reference.path, reference.form, row), trace_of(target.path, target.form, row), limit
    )
    return (
        str(parting)
        if parting
        else "every intermediate result is found in both, so outputs are mixed up or the last step is another"
    )


def _real_rows(dataset: Path, inputs: list[str]) -> Arrays:
    """200 rows of the validation split, the rest of the calibration split where it is too short, each spread evenly."""
    found: list[Arrays] = []
    lacking = _ROWS
    with np.load(dataset, allow_pickle=False) as arrays:
        for split in ("validation", "calibration"):
            if not lacking or any(f"{split}.x.{name}" not in arrays for name in inputs):
                continue
            columns = {name: arrays[f"{split}.x.{name}"] for name in inputs}
            count = len(next(iter(columns.values())))
            chosen = np.unique(np.linspace(0, count - 1, lacking).astype(int)) if count else np.arange(0)
            found.append({name: column[chosen] for name, column in columns.items()})
            lacking -= len(chosen)
    return {name: np.concatenate([part[name] for part in found]) for name in inputs} if lacking < _ROWS else {}

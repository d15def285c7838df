"""An exported file against the model that it was converted from, on real rows. Runs in a child process."""

import importlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgewright.artifact import Format
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export.declaration import LOUD_SNR_DB, Checked, Declared, Disagreement, File
from edgewright.export.diagnosis.finding import find
from edgewright.export.diagnosis.values import difference
from edgewright.export.diagnosis_report import Diagnosis
from edgewright.export.gpu import gpu_report
from edgewright.export.real_rows import ROWS, SPLITS, fixed_batch, real_rows
from edgewright.export.runs import Arrays, in_whole_batches, outputs_of, rounding_of
from edgewright.intake.row_mixing import allowed_beside, said_of_rounding

__all__ = ["check"]

_ROWS_FOR_A_FLOOR = 50  # what is judged by its accuracy later is only looked at for being of any use
_DIAGNOSED_ROWS = 4
_COARSE = 1e-3  # from here on a limit leaves room for what float32 rounds
_ROUNDED_ROWS = 32  # in float64, of what is beyond the fixed limit
_LOOKED_AT_ROWS = 8  # of any other: kernels like the model's own agree with it here, a device's may not
# A comparison within rounding of a threshold may fall on either side: up to this share, such rows are only told.
_TIES_SHARE = 0.01
_READERS = {Format.TFLITE: "tflite", Format.MLPACKAGE: "mlpackage", Format.ONNX: "onnx_file"}


@dataclass(frozen=True)
class _Compared:
    """Notes, what is wrong, the least signal over the error where fewer bits are judged by it, and the tolerance of
    outputs that round by much (`Declared.tolerance`)."""

    notes: list[str] = field(default_factory=list)
    disagreement: Disagreement | None = None
    snr_db: float | None = None
    tolerance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Limits:
    """``largest`` difference over an output's largest magnitude, or the ``snr_db`` that an output must be above."""

    largest: float | None
    snr_db: float | None

    @property
    def knows_rounding(self) -> bool:
        """Whether the limit is of float32, so that a model's own rounding may be beyond it."""
        return self.largest is not None and self.largest < _COARSE


def check(
    *,
    reference: File,
    exported: File,
    dataset: Path,
    inputs: list[str],
    outputs: list[str],
    limit: float | None,
    min_snr_db: float | None,
    has_thresholds: bool,
) -> Checked:
    """What the exported file declares, and how far its outputs lie from the reference's.

    Args:
        reference: the ONNX import, or the torch graph where it was changed since; the dataset itself where there is
            neither: it holds the source's own answers.
        exported: the converted file.
        dataset: the ``.npz`` with the rows.
        inputs: names, in the model's order.
        outputs: names, in the model's order.
        limit: largest difference over the largest magnitude of each output; None: that is not judged.
        min_snr_db: an output's power over that of its error must be above it; None: that is not judged.
        has_thresholds: the model's outputs jump, so a row may differ by rounding of one comparison.
    """
    reader = importlib.import_module(f"edgewright.export.{_READERS[exported.form]}")
    declared: Declared = reader.tensors(exported.path)
    about_gpu = gpu_report(exported.path) if exported.form is Format.TFLITE else []
    # Where the source is known by its answers alone, the validation split is where they stand.
    splits = SPLITS[:1] if reference.form is Format.DATASET else SPLITS
    limits, most = _Limits(limit, min_snr_db), ROWS if limit is not None else _ROWS_FOR_A_FLOOR
    rows = real_rows(dataset, inputs, most, splits=splits)
    if limit is None:  # ranges were taken of the calibration rows: these flatter a file of fewer bits
        rows = real_rows(dataset, inputs, most, splits=SPLITS[:1]) or rows
    compared = _Compared()
    if rows and (limit is not None or min_snr_db is not None):
        try:
            compared = _compare(reference, exported, rows, outputs, limits, has_thresholds=has_thresholds)
        except UnsupportedError as e:
            # Unchecked is told, never taken for passed: the note says which operator the evaluator lacks.
            compared = _Compared(notes=[str(e)])
    declared = replace(
        declared,
        notes=(*declared.notes, *compared.notes, *about_gpu),
        snr_db=compared.snr_db,
        tolerance=tuple(compared.tolerance.items()),
    )
    return Checked(declared, compared.disagreement)


def _compare(
    reference: File, target: File, rows: Arrays, outputs: list[str], limits: _Limits, *, has_thresholds: bool
) -> _Compared:
    actual = outputs_of(target.path, target.form, rows, outputs)
    expected = _expected(reference, rows, outputs, actual)
    notes: list[str] = []
    real = [name for name in outputs if limits.snr_db is not None and expected[name].dtype.kind == "f"]
    least = min((difference(expected[name], actual[name]).snr_db for name in real), default=None)
    own: dict[str, float] | None = None
    for name in outputs:
        off = _relative(expected[name], actual[name])
        message, is_told = _judged(name, expected[name], actual[name], off, limits, has_thresholds=has_thresholds)
        if is_told:
            notes.append(message)
        if is_told or not message:
            continue
        # NaN first: it is farther off than any number, and sorts last by itself.
        worst = np.argsort(-np.nan_to_num(off, nan=np.inf), kind="stable")
        batch = fixed_batch(reference)
        if limits.knows_rounding and limits.largest is not None and expected[name].dtype.kind == "f":
            if own is None:
                own = rounding_of(reference.path, reference.form, _telling(rows, worst, batch, _ROUNDED_ROWS), outputs)
            rounding = own.get(name, 0.0)
            allowed = allowed_beside(rounding, limits.largest)
            # A rounding that allows nothing more explains nothing either, unless it is beyond the limit itself.
            if allowed > limits.largest or rounding > limits.largest:
                message += f"; {said_of_rounding(rounding, limits.largest)}"
            if bool((off <= allowed).all()):
                notes.append(message)
                continue
        place, diagnosis = _place(reference, target, _telling(rows, worst, batch, _DIAGNOSED_ROWS), outputs)
        return _Compared(notes, Disagreement(f"{target.path.name}: {message}; {place}", diagnosis), least)
    if not limits.knows_rounding or limits.largest is None or has_thresholds:
        return _Compared(notes, None, least)
    if own is None:
        own = _rounding_over(rows, reference, outputs)
    tolerance, rounding_notes = _tolerances(own, expected, limits.largest)
    return _Compared([*notes, *rounding_notes], None, least, tolerance)


def _rounding_over(rows: Arrays, reference: File, outputs: list[str]) -> dict[str, float]:
    """The reference's own rounding on a few rows from all over: at once, which costs a fifth, unless the model takes
    fewer."""
    every = np.linspace(0, len(next(iter(rows.values()))) - 1, _LOOKED_AT_ROWS).astype(np.int64)
    batch = fixed_batch(reference)
    apart = _telling(rows, every, batch, _LOOKED_AT_ROWS)
    together = [{name: column[every] for name, column in rows.items()}]
    # At once may fail where row by row does not, as in a model that takes one row only.
    tries = [together, apart] if batch == 1 else [apart]
    roundings = (rounding_of(reference.path, reference.form, batches, outputs) for batches in tries)
    return next((own for own in roundings if own), {})


def _tolerances(own: dict[str, float], expected: Arrays, limit: float) -> tuple[dict[str, float], list[str]]:
    """What another kernel's answers may lie from these, of outputs that round beyond the limit; and what to say of
    those that round so much that no limit tells a defect."""
    tolerance, notes = dict[str, float](), list[str]()
    for name, rounding in own.items():
        if expected[name].dtype.kind != "f" or not math.isfinite(rounding):
            continue
        allowed = allowed_beside(rounding, limit)
        if allowed > limit:
            tolerance[name] = allowed * _magnitude(expected[name])
        elif rounding > limit:
            notes.append(
                f"output '{name}': {said_of_rounding(rounding, limit)}, too much to allow for: a device whose kernels "
                "round otherwise may refuse the golden vectors; scale its inputs or layers so that it cancels less"
            )
    return tolerance, notes


def _judged(
    name: str, expected: np.ndarray, actual: np.ndarray, off: np.ndarray, limits: _Limits, *, has_thresholds: bool
) -> tuple[str, bool]:
    """What is wrong with an output, empty where nothing is; and whether it is only to be told: a tie at a threshold, or
    much noise."""
    count, lost = len(off), _not_finite(expected, actual)
    # In a model with thresholds a turned comparison may lead to another value, an infinite one included.
    if lost and not has_thresholds:
        return (
            f"output '{name}' is NaN or infinite in {lost} of {count} real rows, where the source's is finite:"
            " its precision is too narrow, float32 holds more"
        ), False
    # Labels of a file of fewer bits: no decibels exist of them, so their share is told.
    if limits.largest is None and expected.dtype.kind != "f":
        differ = int(off.astype(bool).sum())
        if not differ:
            return "", False
        return (
            f"output '{name}' of {expected.dtype} is the source's in {1 - differ / count:.1%} of {count} real rows:"
            " it follows from comparisons, which fewer bits turn"
        ), True
    if limits.largest is None:
        ratio = difference(expected, actual).snr_db
        least = limits.snr_db if limits.snr_db is not None else -math.inf
        if ratio <= least:
            return f"output '{name}' is lost in its own error: {ratio:.1f} dB", False
        if limits.snr_db is not None and ratio < LOUD_SNR_DB:
            return (
                f"output '{name}' holds {ratio:.1f} dB of signal over the error of fewer bits: accuracy decides",
                True,
            )
        return "", False
    # Negated, so that NaN, which is neither below nor above, counts as beyond.
    beyond = int((~(off <= limits.largest)).sum())
    if not beyond:
        return "", False
    if (has_thresholds or expected.dtype.kind != "f") and beyond <= _TIES_SHARE * count:
        return f"output '{name}': {beyond} of {count} rows differ, by a tie at a threshold", True
    worst = float(np.nan_to_num(off, nan=np.inf).max())
    return (
        f"output '{name}' is off by {worst:.2g} of its largest magnitude (limit {limits.largest:g}) in {beyond} of"
        f" {count} real rows"
    ), False


def _telling(rows: Arrays, worst: np.ndarray, batch: int, most: int) -> list[Arrays]:
    """The rows that are farthest off, as batches of the size that the model takes."""
    rows = in_whole_batches(rows, batch)
    # The whole batch that a row stood in: a model that mixes rows answers otherwise in another.
    starts = list(dict.fromkeys(int(number) // batch * batch for number in worst))[:most]
    return [{name: column[start : start + batch] for name, column in rows.items()} for start in starts]


def _expected(reference: File, rows: Arrays, outputs: list[str], actual: Arrays) -> Arrays:
    if reference.form is not Format.DATASET:
        return outputs_of(reference.path, reference.form, rows, outputs)
    most = len(next(iter(rows.values())))
    answers = real_rows(reference.path, outputs, most, kind="reference", splits=SPLITS[:1])
    # They are kept as float64, whole numbers too.
    whole = {name: actual[name].dtype.kind in "iub" for name in outputs}
    return {name: a.astype(np.int64) if whole[name] else a for name, a in answers.items()}


def _relative(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """For each row the largest difference, over the largest finite magnitude of all; labels: 1 where they differ."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, actual))
    if a.shape != b.shape:
        raise ConversionError(f"an output has shape {actual.shape}, the source's has {expected.shape}")
    if expected.dtype.kind != "f":
        return np.asarray((a != b).any(axis=1), np.float64)
    scale = _magnitude(a)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    # Only where they differ: infinity minus infinity is NaN, and would count as beyond every limit.
    differences = np.subtract(a, b, out=np.zeros_like(a), where=~same)
    return np.asarray(np.abs(differences).max(axis=1) / scale)


def _magnitude(answers: np.ndarray) -> float:
    """The largest finite one: over infinity, no difference would count."""
    return float(np.abs(answers[np.isfinite(answers)]).max(initial=0.0)) or 1.0


def _not_finite(expected: np.ndarray, actual: np.ndarray) -> int:
    """In how many rows only the exported file's numbers are none."""
    if expected.dtype.kind != "f":
        return 0
    lost = np.isfinite(expected) & ~np.isfinite(actual)
    return int(lost.reshape(len(lost), -1).any(axis=1).sum())


def _place(reference: File, target: File, rows: list[Arrays], outputs: list[str]) -> tuple[str, Diagnosis | None]:
    if target.path.suffix == ".ort":
        return (
            "the .onnx that it was made of agrees, so ONNX Runtime's own fusions are the cause: leave ort_format off"
        ), None
    if reference.form is Format.DATASET:
        return "the source is known by its answers alone here, so no layer can be named", None
    try:
        diagnosis = find((reference.path, reference.form), (target.path, target.form), rows, outputs)
    except Exception as e:  # that they disagree is what matters, and must not be lost
        return f"where was not found ({type(e).__name__}: {(str(e) or 'no message').splitlines()[0][:200]})", None
    return diagnosis.sentence(), diagnosis

"""A model file that anybody made of a model, against that model. Runs in a child process."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgewright.errors import ConversionError, InputError
from edgewright.export.declaration import File
from edgewright.export.diagnosis.computation import Computation
from edgewright.export.diagnosis.finding import computation_of, find
from edgewright.export.diagnosis.noise import nearest
from edgewright.export.diagnosis.values import Difference
from edgewright.export.diagnosis_report import Comparison
from edgewright.export.real_rows import fixed_batch, real_rows
from edgewright.export.runs import Arrays, outputs_of

__all__ = ["compare"]

_DIAGNOSED_ROWS = 4


def compare(
    *,
    reference: File,
    exported: File,
    dataset: Path,
    inputs: list[str],
    outputs: list[str],
    limits: dict[str, float],
    least_snr_db: float,
) -> Comparison:
    """How far a file is from its model, and where that begins.

    Args:
        reference: the imported ONNX file, or the torch graph.
        exported: the file.
        dataset: the ``.npz`` with the rows.
        inputs: names, in the model's order.
        outputs: names, in the model's order; a file that has others is taken to have them in the same order.
        limits: largest difference over the largest magnitude of an output, by the narrowest dtype in the file.
        least_snr_db: where none is given for that dtype, what an output's power over that of its error must be above.
    """
    rows = real_rows(dataset, inputs)
    if not rows:
        raise InputError("the data has no validation or calibration rows to compare on")
    batch, count = fixed_batch(reference), len(next(iter(rows.values())))
    starts = range(0, count - count % batch, batch)
    split = [{name: column[start : start + batch] for name, column in rows.items()} for start in starts]
    answers = outputs_of(reference.path, reference.form, rows, outputs)
    expected = {name: [answers[name][start : start + batch] for start in starts] for name in outputs}
    off = _offs(computation_of(exported.path, exported.form, inputs, outputs), split, [expected[n] for n in outputs])
    # The rows that are farthest off tell most; on these alone layers are compared.
    worst = np.argsort([-max(one.largest for one in row) for row in off], kind="stable")[:_DIAGNOSED_ROWS]
    files = (reference.path, reference.form), (exported.path, exported.form)
    diagnosis = find(*files, [split[i] for i in worst], outputs)
    limit = limits.get(diagnosis.dtype)
    farthest = {name: max(row[i].largest for row in off) for i, name in enumerate(outputs)}
    ratios = {name: _ratio([row[i] for row in off], expected[name]) for i, name in enumerate(outputs)}
    holds = all(v <= limit for v in farthest.values()) if limit else all(v > least_snr_db for v in ratios.values())
    by = f"{limit:g} of an output's largest magnitude" if limit else f"above {least_snr_db:g} dB of signal over error"
    return Comparison(
        holds=holds,
        limit=f"{by}, as the file holds {diagnosis.dtype}",
        rows=len(split) * batch,
        outputs={name: _told(farthest[name], ratios[name]) for name in outputs},
        diagnosis=diagnosis,
    )


def _offs(
    computation: Computation, rows: Sequence[Arrays], expected: Sequence[Sequence[np.ndarray]]
) -> list[list[Difference]]:
    """For each row and output how far the file is off, relative to the largest magnitude over all rows."""
    peaks = [max(map(_height, wanted)) or 1.0 for wanted in expected]
    deviations = []
    for number, row in enumerate(rows):
        try:
            given = computation.whole(row)
        except ConversionError:  # the diagnosis says which operator does not run
            deviations.append([Difference(-math.inf, math.inf)] * len(expected))
            continue
        if len(given) != len(expected):
            raise InputError(f"the file has {len(given)} outputs, the model {len(expected)}")
        pairs = zip(given, expected, peaks, strict=True)
        deviations.append([_off(value, wanted[number], peak) for value, wanted, peak in pairs])
    return deviations


def _height(value: np.ndarray) -> float:
    return float(np.nanmax(np.abs(value.astype(np.float64)), initial=0.0))


def _off(value: np.ndarray, wanted: np.ndarray, peak: float) -> Difference:
    # `nearest` relates to the row's own magnitude; the limit is on that of all rows.
    own = nearest(wanted[np.newaxis], value[np.newaxis])
    return Difference(own.snr_db, own.largest * _height(wanted) / peak if math.isfinite(own.largest) else math.inf)


def _ratio(rows: Sequence[Difference], wanted: Sequence[np.ndarray]) -> float:
    """Of all rows together: signal power over error power, dB."""
    signals = [float((row.astype(np.float64) ** 2).sum()) for row in wanted]
    noisy = [(s, row.snr_db) for s, row in zip(signals, rows, strict=True) if row.snr_db < math.inf]
    # Powers add up, ratios do not: each row's error power again, from its ratio.
    noise = math.fsum(signal * 10 ** (-ratio / 10) for signal, ratio in noisy)
    if not noise:
        return math.inf
    return 10 * math.log10(math.fsum(signals) / noise) if math.isfinite(noise) and any(signals) else -math.inf


def _told(largest: float, snr_db: float) -> str:
    if not math.isfinite(largest):
        return "NaN, infinite or of another shape"
    return f"off by {largest:.2g} of its largest magnitude at most, {snr_db:.1f} dB in all rows"

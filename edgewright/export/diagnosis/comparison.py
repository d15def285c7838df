"""A model file that anybody made of a model, against that model. Runs in a child process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgewright.errors import ConversionError, InputError
from edgewright.export.declaration import File
from edgewright.export.diagnosis.computation import Computation
from edgewright.export.diagnosis.finding import computation_of, find
from edgewright.export.diagnosis.noise import nearest
from edgewright.export.diagnosis_report import Comparison
from edgewright.export.real_rows import fixed_batch, real_rows
from edgewright.export.runs import Arrays, in_whole_batches, outputs_of

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
    min_snr_db: float,
) -> Comparison:
    """How far a file is from its model, and where that begins.

    Args:
        reference: the imported ONNX file, or the torch graph.
        exported: the file.
        dataset: the ``.npz`` with the rows.
        inputs: names, in the model's order.
        outputs: names, in the model's order; a file that has others is taken to have them in the same order.
        limits: largest difference over the largest magnitude of an output, by the narrowest dtype in the file.
        min_snr_db: where none is given for that dtype, what an output's power over that of its error must be above.
    """
    rows = real_rows(dataset, inputs)
    if not rows:
        raise InputError("the data has no validation or calibration rows to compare on")
    batch, count = fixed_batch(reference), len(next(iter(rows.values())))
    rows, starts = in_whole_batches(rows, batch), range(0, count, batch)
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
    ratios = {name: _ratio([row[i].noise for row in off], expected[name]) for i, name in enumerate(outputs)}
    holds = all(v <= limit for v in farthest.values()) if limit else all(v > min_snr_db for v in ratios.values())
    by = f"{limit:g} of an output's largest magnitude" if limit else f"above {min_snr_db:g} dB of signal over error"
    return Comparison(
        holds=holds,
        limit=f"{by}, as the file holds {diagnosis.dtype}",
        rows=count,
        outputs={name: _told(farthest[name], ratios[name]) for name in outputs},
        diagnosis=diagnosis,
    )


@dataclass(frozen=True)
class _Off:
    """How far an output is off in one batch: the largest difference over the largest magnitude of all rows, and the
    power of the error."""

    largest: float
    noise: float


_LOST = _Off(math.inf, math.inf)


def _offs(
    computation: Computation, rows: Sequence[Arrays], expected: Sequence[Sequence[np.ndarray]]
) -> list[list[_Off]]:
    """For each batch and output how far the file is off."""
    peaks = [max(map(_height, wanted)) or 1.0 for wanted in expected]
    deviations = []
    for number, row in enumerate(rows):
        try:
            given = computation.whole(row)
        except ConversionError:  # the diagnosis says which operator does not run
            deviations.append([_LOST] * len(expected))
            continue
        if len(given) != len(expected):
            raise InputError(f"the file has {len(given)} outputs, the model {len(expected)}")
        pairs = zip(given, expected, peaks, strict=True)
        deviations.append([_off(value, wanted[number], peak) for value, wanted, peak in pairs])
    return deviations


def _finite(value: np.ndarray) -> np.ndarray:
    """The finite numbers; an infinite one has to be met as it is, which `difference` looks at."""
    numbers = value.astype(np.float64)
    return numbers[np.isfinite(numbers)]


def _height(value: np.ndarray) -> float:
    return float(np.abs(_finite(value)).max(initial=0.0))


def _power(value: np.ndarray) -> float:
    return float((_finite(value) ** 2).sum())


def _off(value: np.ndarray, wanted: np.ndarray, peak: float) -> _Off:
    if not wanted.any() and value.size == wanted.size and np.isfinite(value).all():
        # Zeros have no magnitude of their own that an error could be related to; those of other rows have.
        return _Off(_height(value) / peak, _power(value))
    # `nearest` relates to the row's own magnitude; the limit is on that of all rows.
    own = nearest(wanted[np.newaxis], value[np.newaxis])
    if not math.isfinite(own.largest):
        return _LOST
    # Powers add up, ratios do not: the error's power again, from its ratio.
    return _Off(own.largest * _height(wanted) / peak, _power(wanted) * 10 ** (-own.snr_db / 10))


def _ratio(noises: Sequence[float], wanted: Sequence[np.ndarray]) -> float:
    """Of all rows together: signal power over error power, dB."""
    signal, noise = math.fsum(map(_power, wanted)), math.fsum(noises)
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if math.isfinite(noise) and signal else -math.inf


def _told(largest: float, snr_db: float) -> str:
    if not math.isfinite(largest):
        return "NaN, infinite or of another shape"
    return f"off by {largest:.2g} of its largest magnitude at most, {snr_db:.1f} dB in all rows"

"""How far an exported model's outputs lie from its source's, on every test row."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import ConversionError
from edgewright.measurement import Parity
from edgewright.statistics.fidelity import comparable, output_parity
from edgewright.validate.decision import Decision

__all__ = ["check_outputs", "parity"]

Arrays = Mapping[str, NDArray[np.float64]]

# A float32 score is right to a few units in its last place; two scores that are nearer than that are equal.
_FLOAT32_TIE = 16 * float(np.finfo(np.float32).eps)
_ROWS_SHOWN = 5


def check_outputs(reference: Arrays, outputs: Arrays, name: str) -> None:
    """Refuse outputs that cannot be compared.

    Raises:
        ConversionError: an output is missing, has another shape than the source's, or is NaN or infinite where its is
            not the same.
    """
    for key, expected in reference.items():
        if key not in outputs:
            raise ConversionError(f"{name}: output '{key}' is missing; the exported file has {sorted(outputs)}")
        actual = outputs[key]
        # The number of elements, not the shape of a row: a converter may drop or add axes of size 1.
        if actual.size != expected.size or len(actual) != len(expected):
            raise ConversionError(
                f"{name}: output '{key}' has shape {list(actual.shape[1:])} a row, the source model's has "
                f"{list(expected.shape[1:])}"
            )
        a, b = (array.reshape(len(array), -1) for array in (expected, actual))
        # What the source leaves undefined may be anything; its infinities are those of masks, and may be finite.
        broken = ~np.isfinite(b) & ~np.isnan(a) & (a != b)
        rows = broken.any(axis=1)
        if rows.any():
            raise ConversionError(
                f"{name}: output '{key}' is NaN or infinite in {int(rows.sum())} of {len(actual)} test rows "
                f"(first: row {int(rows.argmax())}), where the source model's is not the same"
            )


def parity(reference: Arrays, outputs: Arrays, checked_by: str, decision: Decision | None) -> Parity:
    """Differences over all outputs and rows and, for a classifier, the share of equal decisions.

    The deciding output alone is compared for a classifier: a label output differs by whole classes wherever a
    decision does, which ``agreement`` already says. Where the source's own answer is not finite nothing is compared.
    """
    names = [decision.output] if decision else list(reference)
    pairs = [comparable(reference[n], outputs[n]) for n in names]
    expected, actual = (np.concatenate(side, axis=1) for side in zip(*pairs, strict=True))
    difference = np.abs(actual - expected)
    largest = float(np.abs(expected).max())
    norms = np.linalg.norm(expected) * np.linalg.norm(actual)
    agreement, disagreements, explanation = None, None, ""
    if decision:
        differ = decision.classes(reference) != decision.classes(outputs)
        disagreements = int(differ.sum())
        agreement = 1 - disagreements / len(differ)
        explanation = _explained(decision, reference, outputs, differ)
    return Parity(
        checked_by=checked_by,
        rows=len(expected),
        max_absolute=float(difference.max()),
        mean_absolute=float(difference.mean()),
        max_relative=float(difference.max()) / largest if largest else None,
        # Rounding can take it above 1.
        cosine=min(1.0, float((expected * actual).sum()) / float(norms)) if norms else None,
        agreement=agreement,
        disagreements=disagreements,
        explanation=explanation,
        outputs=output_parity(reference, outputs),
    )


def _explained(decision: Decision, reference: Arrays, outputs: Arrays, differ: NDArray[np.bool_]) -> str:
    """Why decisions differ: a tie in the source, or a difference larger than the source's own margin."""
    if not differ.any():
        return ""
    rows = np.flatnonzero(differ)
    listed = ", ".join(str(r) for r in rows[:_ROWS_SHOWN]) + (", …" if len(rows) > _ROWS_SHOWN else "")
    place = f"{len(rows)} of {len(differ)} rows differ (test row{'s' if len(rows) > 1 else ''} {listed})"
    if decision.is_class:
        return f"{place}; the model gives no scores that would show how near the decision was"
    scores = decision.scores(reference)
    # The two best of each row; `argmax` decides between them.
    best = np.sort(scores, axis=1)[:, -2:]
    margin = _apart(best[:, 1], best[:, 0])[rows]
    ties = int((margin <= _FLOAT32_TIE * np.maximum(np.abs(best[rows, 1]), 1e-30)).sum())
    if ties == len(rows):
        return f"{place}: the source's two best scores tie there within float32 rounding (margin <= {margin.max():.2g})"
    moved = _apart(decision.scores(outputs), scores)[rows].max(axis=1)
    return (
        f"{place}: {ties} of them tie in the source within float32 rounding; elsewhere the source's margin is "
        f"{margin.min():.2g} to {margin.max():.2g}, and the scores moved by {moved.min():.2g} to {moved.max():.2g}"
    )


def _apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The magnitude of the difference; of equal infinities, which subtract to NaN, none."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, np.abs(a - b))

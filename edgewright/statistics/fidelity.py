"""How much of its source's answers a model keeps, where nobody knows the true ones.

The fidelity of an output is R² of it against the source's: 1 - squared error / variation of the source's answers over
the rows (the term is that of knowledge distillation: Stanton et al., "Does Knowledge Distillation Really Work?", arXiv
2106.05945). That of a model is its worst output's. 0.99 is a signal-to-noise ratio of 20 dB.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import InputError
from edgewright.measurement import Accuracy, AccuracyDrop, Interval, OutputParity

__all__ = ["FIDELITY", "fidelity_drop", "fidelity_of", "finite", "output_parity"]

FIDELITY = "fidelity"
Arrays = Mapping[str, NDArray[np.float64]]
_DRAWS = 2000
_SEED = 20_260
# An output that varies by less than this share of its magnitude is a constant: its rounding is no variation.
_CONSTANT = 1e-4


def fidelity_of(reference: Arrays, outputs: Arrays) -> Accuracy:
    """The worst output's fidelity with its 95% bootstrap interval over rows; arrays are (N, ...) by output.

    Raises:
        InputError: no rows.
    """
    fidelity = _fidelity(reference, outputs)
    return Accuracy(metric=FIDELITY, rows=len(next(iter(reference.values()))), **fidelity.model_dump())


def fidelity_drop(reference: Arrays, outputs: Arrays) -> AccuracyDrop:
    """What is lost of the source's answers, percentage points of fidelity: the source has all of its own."""
    fidelity = _fidelity(reference, outputs)
    exact = fidelity.value == 1
    return AccuracyDrop(
        percent=100 * (1 - fidelity.value),
        low_percent=100 * (1 - fidelity.high),
        high_percent=100 * (1 - fidelity.low),
        p_value=1.0 if exact else 1 / (_DRAWS + 1),
        test="bootstrap of the fidelity",
    )


def output_parity(reference: Arrays, outputs: Arrays) -> tuple[OutputParity, ...]:
    """Each output by itself: fidelity, cosine, largest difference, and how often the largest element is the same."""
    return tuple(_compared(name, reference[name], outputs[name]) for name in reference)


def _compared(name: str, expected: NDArray[np.float64], actual: NDArray[np.float64]) -> OutputParity:
    error, variation = _of_rows(expected, actual)
    a, b = finite(expected, actual)
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    difference, largest = np.abs(a - b), float(np.abs(a).max(initial=0))
    return OutputParity(
        name=name,
        fidelity=float(_share(error.sum(), variation.sum())),
        cosine=min(1.0, float((a * b).sum()) / norms) if norms else None,
        max_absolute=float(difference.max(initial=0)),
        max_relative=float(difference.max(initial=0)) / largest if largest else None,
        agreement=_agreement(expected, actual),
    )


def _agreement(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float | None:
    """How often the largest along the last axis is at the same place; None where that axis has no choice."""
    if expected.ndim < 2 or expected.shape[-1] < 2:
        return None
    return float((expected.argmax(axis=-1) == actual.reshape(expected.shape).argmax(axis=-1)).mean())


def _fidelity(reference: Arrays, outputs: Arrays) -> Interval:
    if not len(next(iter(reference.values()))):
        raise InputError("the test split has no rows: fidelity cannot be measured")
    each = [_of_rows(reference[name], outputs[name]) for name in reference]
    error, variation = (np.stack(part, axis=1) for part in zip(*each, strict=True))
    value = float(_share(error.sum(axis=0), variation.sum(axis=0)).min())
    generator = np.random.default_rng(_SEED)
    draws = generator.multinomial(len(error), np.full(len(error), 1 / len(error)), size=_DRAWS)
    drawn = _share(draws @ error, draws @ variation).min(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def _of_rows(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Squared error and variation of each row, (N,) both."""
    a, b = finite(expected, actual)
    scale = float(np.abs(a).max(initial=0)) or 1.0  # squares of 1e200 would be infinite
    a, b = a / scale, b / scale
    error = ((a - b) ** 2).sum(axis=1)
    centred = ((a - a.mean(axis=0)) ** 2).sum(axis=1)
    whole = (a**2).sum(axis=1)
    return error, centred if centred.sum() > _CONSTANT**2 * whole.sum() else whole


def finite(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Rows of both, (N, elements); where the source's own answer is not finite nothing is compared."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (expected, actual))
    known = np.isfinite(a)
    return np.where(known, a, 0), np.where(known, b, 0)


def _share(error: NDArray[np.float64], variation: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - error / variation; an output that is zero throughout is kept whole or not at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 - np.asarray(error) / np.asarray(variation)
    return np.where(np.asarray(variation) > 0, share, np.where(np.asarray(error) > 0, 0.0, 1.0))

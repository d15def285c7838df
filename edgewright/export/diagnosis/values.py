"""How far two arrays lie apart, and whether that is what a dtype explains."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["COPY", "EXACT", "Difference", "Limit", "Print", "difference", "limit_of", "print_of", "tells"]

Reals = NDArray[np.floating]


@dataclass(frozen=True)
class Difference:
    """``snr_db``: 10 log10(signal power / error power), infinite where nothing differs, minus infinite where a number
    is lost to NaN or infinity; ``largest``: the largest difference over the largest magnitude of the reference."""

    snr_db: float
    largest: float


EXACT = Difference(math.inf, 0.0)
_LOST = Difference(-math.inf, math.inf)


def difference(expected: Reals, actual: Reals) -> Difference:
    """Of arrays of one size; where both are the same infinity, or both NaN, they agree."""
    # In float64: the square of a float32 overflows from 1.8e19 on.
    a, b = expected.reshape(-1).astype(np.float64), actual.reshape(-1).astype(np.float64)
    finite = np.isfinite(a)
    if not np.isfinite(b[finite]).all():
        return _LOST
    rest_a, rest_b = a[~finite], b[~finite]
    if not ((rest_a == rest_b) | (np.isnan(rest_a) & np.isnan(rest_b))).all():
        return _LOST
    a, b = a[finite], b[finite]
    unit = float(max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)))
    if not unit:
        return EXACT
    # In that unit no square leaves the range of float64, as those of numbers beyond 1e154 would.
    a, b = a / unit, b / unit
    error = a - b
    noise, signal = float(error @ error), float(a @ a)
    if not noise:
        return EXACT
    # Beside zeros, or what is nearly zero, any error is all that there is.
    if not signal:
        return _LOST
    ratio_db = 10 * (math.log10(signal) - math.log10(noise))
    return Difference(ratio_db, float(np.abs(error).max() / np.abs(a).max()))


@dataclass(frozen=True)
class Limit:
    """What one operator may add of its own, its inputs being right: largest difference over largest magnitude, or,
    where rounding is coarse and a single number may be far off, the ratio of signal to noise."""

    largest: float = math.inf
    snr_db: float = -math.inf

    def holds(self, deviation: Difference) -> bool:
        """Whether a difference is within it."""
        return deviation.largest <= self.largest and deviation.snr_db >= self.snr_db

    def reach(self, other: "Print") -> float:
        """How far the figures of a print may lie from those of a value within this limit of the reference."""
        by_noise = other.root_mean_square * 10 ** (-self.snr_db / 20) if self.snr_db > -math.inf else math.inf
        return min(self.largest * other.peak, by_noise) + 1e-30


# float32: sound operators were measured at 3e-6 at most; parity asks for 1e-4 after all of them.
_FLOAT32 = Limit(largest=2e-5)
# float16: 2^-11 for each rounding; the limit is that of parity.
_FLOAT16 = Limit(largest=1e-2)
# 8 bits and less: a layer that bears them has 20 dB and more (see `edgewright.optimize.sensitivity`); with less than
# 15 dB a value is no longer told from those beside it, such as a sum from the same sum with its bias.
_INTEGER = Limit(snr_db=15.0)


# Two computations of one value in float32.
COPY = Limit(largest=1e-6)


def limit_of(dtype: str) -> Limit:
    """By the narrowest dtype that an operator's result or weights are stored in."""
    if dtype in {"float32", "float64"}:
        return _FLOAT32
    return _FLOAT16 if dtype in {"float16", "bfloat16"} else _INTEGER


@dataclass(frozen=True)
class Print:
    """Figures of an array that no rearrangement of its elements changes."""

    size: int
    mean: float
    root_mean_square: float
    low: float
    high: float

    @cached_property
    def peak(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    def near(self, other: "Print", limit: Limit) -> bool:
        """Whether some arrangement of the one could be within the limit of the other: necessary, not sufficient."""
        reach = limit.reach(self)
        figures = [(self.mean, other.mean), (self.root_mean_square, other.root_mean_square)]
        if limit.largest < math.inf:  # an error of little power may still move an extreme far
            figures += [(self.low, other.low), (self.high, other.high)]
        return self.size == other.size and all(abs(a - b) <= reach * (1 + 1e-6) for a, b in figures)


def print_of(values: Reals) -> Print:
    """The print of the finite numbers among the values."""
    flat = values.reshape(-1).astype(np.float64)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return Print(values.size, 0.0, 0.0, 0.0, 0.0)
    square = math.sqrt(float(finite @ finite) / finite.size)
    return Print(values.size, float(finite.mean()), square, float(finite.min()), float(finite.max()))


def tells(values: np.ndarray) -> bool:
    """Real numbers, at least three different ones: others are found by chance."""
    if values.dtype.kind != "f" or values.size < 3:
        return False
    finite = values[np.isfinite(values)]
    if finite.size < 3 or finite.min() == finite.max():
        return False
    # A sample first: to sort all of a large array takes long, and most show three numbers at once.
    return len(np.unique(finite[:: max(1, finite.size // 4096)])) >= 3 or len(np.unique(finite)) >= 3

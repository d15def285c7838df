"""The range of each activation that static quantization spreads its 256 levels over, from calibration rows.

Rows are gone through twice, one at a time: for the smallest and largest values, then for a histogram between them. What
is held is 16 KiB for each tensor and the activations of one row, however many rows there are.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.recipe import RangeCalibration

__all__ = ["Histogram", "range_of", "streamed_ranges"]

Array = NDArray[Any]
Range = tuple[float, float]
_BINS = 2048
_LEVELS = 256
# Clipping thresholds that are tried, evenly spaced up to the largest magnitude.
_CANDIDATES = 128


def streamed_ranges(
    rows: Callable[[], Iterable[Mapping[str, Array]]], method: RangeCalibration, percentile: float
) -> dict[str, Range]:
    """(lowest, highest) of each tensor, zero between them; ``rows()`` gives one row's {tensor: values} after another.

    Numbers that are not finite are left out; a tensor that has no other is left out too.
    """
    widest: dict[str, Range] = {}
    for row in rows():
        for name, values in row.items():
            finite = _finite(values)
            if finite.size:
                # From (0, 0): padding and ReLU need zero to be a level, so every range holds it.
                low, high = widest.get(name, (0.0, 0.0))
                widest[name] = (min(low, float(finite.min())), max(high, float(finite.max())))
    if method == "min_max":
        return widest
    # A pass of its own: the bins have equal width, so their bounds are needed first.
    histograms = {name: Histogram(*bounds) for name, bounds in widest.items()}
    for row in rows():
        for name in row.keys() & histograms.keys():
            histograms[name].add(_finite(row[name]))
    return {name: range_of(histogram, method, percentile) for name, histogram in histograms.items()}


class Histogram:
    """How often values between ``low`` and ``high`` occur, in 2,048 bins of equal width."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.counts = np.zeros(_BINS, dtype=np.int64)

    def add(self, values: Array) -> None:
        """Count (N,) values, all between the bounds."""
        # A tensor of zeros: np.histogram would widen an empty range to one around it.
        if self.high > self.low:
            # In float64 and units of the largest: float32 has no width for the range of a mask of -3.4e38, and no bin
            # of one that ends at 1e-45.
            reach = max(-self.low, self.high)
            scaled = np.asarray(values, np.float64) / reach
            self.counts += np.histogram(scaled, bins=_BINS, range=(self.low / reach, self.high / reach))[0]

    @property
    def edges(self) -> Array:
        """The (2049,) bounds of the bins."""
        return np.linspace(self.low, self.high, _BINS + 1)


def range_of(histogram: Histogram, method: RangeCalibration, percentile: float = 99.99) -> Range:
    """The range to quantize: all of it, or what clipping its tails leaves. ``percentile`` is of that method alone.

    percentile: that share of the values is inside. entropy: least Kullback-Leibler divergence between the clipped
    distribution and its quantized form (Migacz, "8-bit inference with TensorRT", GTC 2017). mse: least squared error,
    of rounding inside and clipping outside (Banner et al., arXiv 1810.05723).
    """
    if method == "min_max" or not histogram.counts.any():
        return histogram.low, histogram.high
    if method == "percentile":
        return _percentile(histogram, percentile)
    reach = max(-histogram.low, histogram.high)
    candidates = [_clipped(histogram, reach * (i + 1) / _CANDIDATES) for i in range(_CANDIDATES)]
    cost = _divergence if method == "entropy" else _squared_error
    costs = [cost(histogram, bounds) for bounds in candidates]
    # The widest of equals: nothing is clipped that need not be.
    return candidates[_CANDIDATES - 1 - int(np.argmin(costs[::-1]))]


def _clipped(histogram: Histogram, threshold: float) -> Range:
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def _percentile(histogram: Histogram, percentile: float) -> Range:
    """Half of what is cut off falls on each side; all of it where the values have one sign."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    cut = 1 - percentile / 100
    both = histogram.low < 0 < histogram.high
    tail = cut / 2 if both else cut
    low, high = histogram.low, histogram.high
    # Outwards to a bin's edge: what is cut off is at most the tail.
    if low < 0:
        low = float(histogram.edges[int(np.searchsorted(share, tail, side="right"))])
    if high > 0:
        high = float(histogram.edges[min(int(np.searchsorted(share, 1 - tail)) + 1, _BINS)])
    return min(low, 0.0), max(high, 0.0)


def _squared_error(histogram: Histogram, bounds: Range) -> float:
    # A value counts as its bin's centre: 2,048 bins are far finer than 256 levels.
    centres = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    low, high = bounds
    step = (high - low) / (_LEVELS - 1)
    if step <= 0:
        return float("inf")
    rounded = np.round((np.clip(centres, low, high) - low) / step) * step + low
    return float(((centres - rounded) ** 2) @ histogram.counts)


def _divergence(histogram: Histogram, bounds: Range) -> float:
    edges = histogram.edges
    first = int(np.searchsorted(edges, bounds[0], side="right")) - 1
    last = max(int(np.searchsorted(edges, bounds[1], side="left")), first + 1)
    if last - first < _LEVELS // 2:  # fewer bins than levels lose nothing by definition
        return float("inf")
    inside = histogram.counts[first:last].astype(np.float64)
    # Clipped values land on the outermost levels: their mass counts in p, and not in q (Migacz).
    clipped = inside.copy()
    clipped[0] += histogram.counts[:first].sum()
    clipped[-1] += histogram.counts[last:].sum()
    # Each level spreads its mass evenly over those of its bins that hold anything.
    level = np.arange(len(inside)) * _LEVELS // max(len(inside), _LEVELS)
    held = inside > 0
    mass, bins = np.bincount(level, inside), np.bincount(level, held)
    quantized = np.where(held, (mass / np.maximum(bins, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), quantized / quantized.sum() if quantized.any() else quantized
    at = p > 0
    # A bin with only clipped mass has no counterpart: a small floor keeps its cost finite.
    return float((p[at] * np.log(p[at] / np.maximum(q[at], 1e-6 / len(p)))).sum())


def _finite(values: Array) -> Array:
    flat = np.asarray(values).reshape(-1)
    finite: Array = flat[np.isfinite(flat)]
    return finite

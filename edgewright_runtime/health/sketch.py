"""Quantiles over any span in bounded memory, mergeable across windows and devices.

DDSketch (Masson, Rim, Lee: DDSketch, VLDB 2019): values are counted in buckets whose bounds grow by a constant
factor, so every quantile is right to a relative error that is chosen beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["QuantileSketch"]

_RELATIVE_ERROR = 0.01
_GAMMA = (1 + _RELATIVE_ERROR) / (1 - _RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)
# 1e-6 to 1e6 (a nanosecond to a quarter of an hour, in milliseconds); what is outside counts as the bound.
_LOWEST, _HIGHEST = 1e-6, 1e6


class QuantileSketch:
    """Counts of positive values; quantiles are within 1% of the true ones."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})
        self.total = sum(self.counts.values())

    def add(self, value: float) -> None:
        """Count one value."""
        bucket = math.ceil(math.log(min(max(value, _LOWEST), _HIGHEST)) / _LOG_GAMMA)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += 1

    def merge(self, other: QuantileSketch) -> None:
        """Count everything that another sketch has counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += other.total

    def quantile(self, q: float) -> float | None:
        """The value below which the share ``q`` (0-1) of the values lies; None where nothing was counted."""
        if not self.total:
            return None
        rank, seen = q * (self.total - 1), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen > rank:
                # The middle of the bucket's bounds by relative error: at most 1% from either.
                return 2 * _GAMMA**bucket / (_GAMMA + 1)
        raise AssertionError("the counts do not add up to the total")  # pragma: no cover

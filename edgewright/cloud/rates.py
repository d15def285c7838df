"""How often a caller, and all together, may ask: token buckets, which let a burst through and then a steady rate."""

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Bucket", "Rates"]

_MAX_CALLERS = 10_000


@dataclass(frozen=True)
class Bucket:
    """So many requests a second, and as a burst so many at once."""

    per_second: float
    burst: int


class Rates:
    """Buckets by caller, one for all callers, and one for strangers. Not for several threads."""

    def __init__(self, each: Bucket, together: Bucket, clock: Callable[[], float] = time.monotonic) -> None:
        self._each, self._together, self._clock = each, together, clock
        self._levels: dict[str, tuple[float, float]] = {}
        self._all = self._strangers = (float(together.burst), clock())

    def wait_of_all(self) -> float:
        """Take one request of everybody's; seconds after which it may be tried again, 0 where it may pass."""
        self._all, wait = self._taken(self._all, self._together)
        return wait

    def wait_of_strangers(self) -> float:
        """The same of those together whom nobody knows; what they take is not taken from the others."""
        self._strangers, wait = self._taken(self._strangers, self._together)
        return wait

    def wait_of(self, caller: str) -> float:
        """The same of one caller's."""
        # Taken out and put in again: the dictionary's order is that of the last request.
        known = self._levels.pop(caller, (float(self._each.burst), self._clock()))
        self._levels[caller], wait = self._taken(known, self._each)
        if len(self._levels) > _MAX_CALLERS:  # who asked longest ago has the fullest bucket
            del self._levels[next(iter(self._levels))]
        return wait

    def _taken(self, known: tuple[float, float], bucket: Bucket) -> tuple[tuple[float, float], float]:
        level, at = known
        now = self._clock()
        level = min(float(bucket.burst), level + (now - at) * bucket.per_second)
        # Nothing is taken from who is refused, so waiting as long as it is told is enough.
        if level < 1.0:
            return (level, now), (1.0 - level) / bucket.per_second
        return (level - 1.0, now), 0.0

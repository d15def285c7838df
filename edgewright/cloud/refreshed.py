"""A value that is slow to read, for many threads that ask for it."""

import time
from collections.abc import Callable
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Refreshed"]

T = TypeVar("T")


class _Read(NamedTuple, Generic[T]):
    value: T
    at_s: float


class Refreshed(Generic[T]):
    """What ``read`` gives, read by one thread at a time.

    While one reads, the others get the value before; only for the first they wait. An error of ``read`` is its
    caller's alone, and the next one reads again.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._reading = Lock()
        self._known: _Read[T] | None = None

    def value(self, every_s: float) -> T:
        """The value, read anew where it is older than ``every_s``."""
        known = self._known
        if known is not None and not _is_due(known, every_s):
            return known.value
        if known is None:
            self._reading.acquire()
        elif not self._reading.acquire(blocking=False):
            return known.value
        try:
            known = self._known
            # Again, under the lock: another thread may have read it while this one waited.
            if known is None or _is_due(known, every_s):
                known = self._known = _Read(self._read(), time.monotonic())
            return known.value
        finally:
            self._reading.release()


def _is_due(known: _Read[T], every_s: float) -> bool:
    return time.monotonic() >= known.at_s + every_s

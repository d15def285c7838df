"""Answers that were given before: least recently used out first, of one model only."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

__all__ = ["AnswerCache", "feeds_key"]

T = TypeVar("T")


def feeds_key(feeds: Mapping[str, np.ndarray]) -> bytes:
    """A key over the exact input: names, dtypes, shapes and every byte."""
    digest = hashlib.blake2b(digest_size=16)
    # Sorted, with separators and shapes: other inputs of the same bytes must not share a key.
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.data if array.size else b"")
    return digest.digest()


class AnswerCache(Generic[T]):
    """At most ``capacity`` answers of the model ``version``; safe from many threads."""

    def __init__(self, capacity: int, version: str) -> None:
        self._capacity = capacity
        self._version = version
        self._answers: OrderedDict[bytes, T] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def use(self, version: str) -> None:
        """Forget everything if the model has changed."""
        with self._lock:
            if version != self._version:
                self._version = version
                self._answers.clear()

    def get(self, key: bytes, version: str) -> T | None:
        """The answer that this version of the model gave to this input, or None."""
        with self._lock:
            # An old model may still be answering in another thread while the cache is of the new one.
            answer = self._answers.get(key) if version == self._version else None
            if answer is None:
                self.misses += 1
                return None
            self._answers.move_to_end(key)
            self.hits += 1
            return answer

    def put(self, key: bytes, version: str, answer: T) -> None:
        """Keep an answer; one of another version than the current is not kept."""
        with self._lock:
            if version != self._version or not self._capacity:
                return
            self._answers[key] = answer
            self._answers.move_to_end(key)
            if len(self._answers) > self._capacity:
                self._answers.popitem(last=False)

    def __len__(self) -> int:
        return len(self._answers)

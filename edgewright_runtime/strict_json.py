"""Reading JSON that somebody else wrote: bounded, and every key, type and range stated where it is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, TypeVar

from edgewright_runtime.errors import IntegrityError

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "Fields",
    "bounded_integer",
    "canonical_json",
    "parse_object",
    "safe_path",
    "text_item",
]

MAX_DOCUMENT_BYTES = 8 << 20  # a manifest is mostly vocabularies; a million words would not belong in one
_MAX_TEXT = 10_000
_MAX_PATH = 240
_MAX_INTEGER = 1 << 53
_MAX_DIGITS = 500  # more than a float64 written out in full
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ALLOWED_PATH = re.compile(r"[A-Za-z0-9._+@ -]+(/[A-Za-z0-9._+@ -]+)*")

T = TypeVar("T")


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same value: sorted keys, no NaN, UTF-8, one final newline."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_object(content: bytes, what: str) -> Fields:
    """One JSON object, as fields to be read.

    Raises:
        IntegrityError: too long, not JSON, not an object, a key twice, or NaN.
    """
    if len(content) > MAX_DOCUMENT_BYTES:
        raise IntegrityError(f"{what}: {len(content)} bytes, at most {MAX_DOCUMENT_BYTES} are read")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_int=bounded_integer
        )
    except RecursionError as e:
        raise IntegrityError(f"{what}: not valid JSON: nested too deeply") from e
    except ValueError as e:
        raise IntegrityError(f"{what}: not valid JSON: {str(e)[:200]}") from e
    return Fields(value, what)


def safe_path(text: str, what: str) -> str:
    """A relative path that stays below the folder it is joined to, with plain characters only.

    Raises:
        IntegrityError: absolute, empty, too long, or with a part that leads elsewhere.
    """
    parts = text.split("/")
    if len(text) > _MAX_PATH or not _ALLOWED_PATH.fullmatch(text) or any(p.strip(". ") == "" for p in parts):
        raise IntegrityError(f"{what}: path {text[:80]!r} is not a plain relative path")
    return str(PurePosixPath(text))


def bounded_integer(digits: str) -> int:
    """An integer of JSON; old Pythons take minutes for one of a million digits.

    Raises:
        ValueError: longer than any that is of use here.
    """
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not allowed")


class Fields:
    """The keys of one JSON object, each read once; `done` refuses what nobody read."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            raise IntegrityError(f"{what}: expected an object, found {_shown(value)}")
        self._left = dict(value)
        self._what = what

    def done(self) -> None:
        """Refuse unknown keys."""
        if self._left:
            raise IntegrityError(f"{self._what}: unknown keys {sorted(self._left)[:5]}")

    def take(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self._left:
            raise IntegrityError(f"{self._what}: key '{key}' is missing")
        return self._left.pop(key)

    def text(self, key: str, allowed: tuple[str, ...] | None = None) -> str:
        """A string of bounded length."""
        value = self.take(key)
        if not isinstance(value, str) or len(value) > _MAX_TEXT or "\0" in value:
            raise self._fault(key, value, "a text")
        if allowed is not None and value not in allowed:
            raise self._fault(key, value, f"one of {', '.join(allowed)}")
        return value

    def sha256(self, key: str) -> str:
        """Sixty-four lowercase hexadecimal digits."""
        value = self.take(key)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self._fault(key, value, "a SHA-256 in lowercase hex")
        return value

    def path(self, key: str) -> str:
        """A path that stays inside its folder; see `safe_path`."""
        return safe_path(self.text(key), f"{self._what}.{key}")

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            raise self._fault(key, value, "true or false")
        return value

    def whole(self, key: str, low: int = 0, high: int = _MAX_INTEGER) -> int:
        """An integer in a range."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._fault(key, value, f"an integer in {low}..{high}")
        return value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in a range."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite_in(value, low, high):
            raise self._fault(key, value, f"a number in {low}..{high}")
        return float(value)

    def maybe(self, key: str, read: Callable[[str], T]) -> T | None:
        """None where the key holds null, else what ``read`` makes of it."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return None
        return read(key)

    def items(self, key: str, read: Callable[[Any, str], T], at_most: int = 100_000) -> tuple[T, ...]:
        """A list, each element read by ``read(element, where)``."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) > at_most:
            raise self._fault(key, value, f"a list of at most {at_most}")
        return tuple(read(element, f"{self._what}.{key}[{i}]") for i, element in enumerate(value))

    def object(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self.take(key), f"{self._what}.{key}")

    def numbers_by_name(self, key: str) -> dict[str, float]:
        """A nested object that maps names to finite numbers."""
        inner = self.object(key)
        return {name: inner.number(name) for name in sorted(inner._left)}

    def _fault(self, key: str, value: Any, allowed: str) -> IntegrityError:
        return IntegrityError(f"{self._what}: '{key}' must be {allowed}, found {_shown(value)}")


def text_item(value: Any, where: str) -> str:
    """An element of a list that must be a text."""
    return Fields({"item": value}, where).text("item")


def _finite_in(value: float, low: float, high: float) -> bool:
    try:
        return math.isfinite(value) and low <= value <= high
    except OverflowError:  # an integer beyond float64
        return False


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {repr(value)[:60]}"

"""Reading JSON that somebody else wrote: bounded, and every key, type and range stated where it is read.

A whole object is read by its dataclass (see `wire`); `Fields` are for objects whose rules hang on other values. Written
by hand: a device has the standard library and numpy, and pydantic would bring a compiled wheel and megabytes of memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from edgewright_runtime.errors import IntegrityError

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "MAX_INTEGER",
    "Fields",
    "bounded_integer",
    "canonical_json",
    "fault",
    "flag",
    "number",
    "parse_object",
    "safe_path",
    "sha256",
    "shown",
    "text",
    "whole",
]

MAX_DOCUMENT_BYTES = 8 << 20  # a manifest is mostly vocabularies; a million words would not belong in one
_MAX_TEXT = 10_000
_MAX_PATH = 240
MAX_INTEGER = 1 << 53
_MAX_DIGITS = 500  # more than a float64 written out in full
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ALLOWED_PATH = re.compile(r"[A-Za-z0-9._+@ -]+(/[A-Za-z0-9._+@ -]+)*")


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same value: sorted keys, no NaN, UTF-8, one final newline."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_object(content: bytes, what: str) -> Fields:
    """One JSON object, as fields to be read.

    Raises:
        IntegrityError: too long, not JSON, not an object, a key twice, NaN, or a text that UTF-8 cannot hold.
    """
    if len(content) > MAX_DOCUMENT_BYTES:
        raise IntegrityError(f"{what}: {len(content)} bytes, at most {MAX_DOCUMENT_BYTES} are read")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_int=bounded_integer
        )
        # Only an escape can bring in half of a surrogate pair, which no path, digest or message could be made of.
        if _SURROGATE.search(content):
            _check_characters(value)
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
    # "." and ".." lead elsewhere; Windows drops dots and spaces at a name's end, so a part of them alone is none.
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


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"half a character ({e.object[e.start]!a}), which is no Unicode") from e


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    # json.loads alone keeps the last of two: another reader might keep the first, and read another document.
    if len(members) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not allowed")


def shown(value: Any) -> str:
    """A value as a message shows it: its type, and the beginning of what it holds."""
    return f"{type(value).__name__} {repr(value)[:60]}"


def fault(value: Any, what: str, key: str, allowed: str) -> IntegrityError:
    """The error of a value under ``key`` of the object ``what`` that is not ``allowed``."""
    return IntegrityError(f"{what}: '{key}' must be {allowed}, found {shown(value)}")


def text(value: Any, what: str, key: str, allowed: Sequence[str] = ()) -> str:
    """A string of bounded length; one of those ``allowed``, if any are named."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT or "\0" in value:
        raise fault(value, what, key, "a text")
    if allowed and value not in allowed:
        raise fault(value, what, key, f"one of {', '.join(allowed)}")
    return value


def sha256(value: Any, what: str, key: str) -> str:
    """Sixty-four lowercase hexadecimal digits."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise fault(value, what, key, "a SHA-256 in lowercase hex")
    return value


def flag(value: Any, what: str, key: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise fault(value, what, key, "true or false")
    return value


def whole(value: Any, what: str, key: str, low: int = 0, high: int = MAX_INTEGER) -> int:
    """An integer in a range."""
    # bool is a subclass of int: true would pass for 1.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise fault(value, what, key, f"an integer in {low}..{high}")
    return value


def number(value: Any, what: str, key: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in a range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite_in(value, low, high):
        raise fault(value, what, key, f"a number in {low}..{high}")
    return float(value)


def _finite_in(value: float, low: float, high: float) -> bool:
    try:
        return math.isfinite(value) and low <= value <= high
    except OverflowError:  # an integer beyond float64
        return False


class Fields:
    """The keys of one JSON object, each read once; `done` refuses what nobody read."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, dict):
            raise IntegrityError(f"{what}: expected an object, found {shown(value)}")
        self._left = dict(value)
        self._what = what

    def done(self) -> None:
        """Refuse unknown keys."""
        if self._left:
            raise IntegrityError(f"{self._what}: unknown keys {sorted(self._left)[:5]}")

    def rest(self) -> dict[str, Any]:
        """What has not been read yet, to be read by a dataclass."""
        return self._left

    def take(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self._left:
            raise IntegrityError(f"{self._what}: key '{key}' is missing")
        return self._left.pop(key)

    def text(self, key: str, allowed: Sequence[str] = ()) -> str:
        """A string; see `text`."""
        return text(self.take(key), self._what, key, allowed)

    def whole(self, key: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        """An integer in a range."""
        return whole(self.take(key), self._what, key, low, high)

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in a range."""
        return number(self.take(key), self._what, key, low, high)

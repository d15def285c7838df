"""How deep a value of JSON may be nested: what is deeper than a library's own limit breaks whoever reads it back."""

from __future__ import annotations

from typing import Any

__all__ = ["MAX_DEPTH", "is_nested_deeper"]

MAX_DEPTH = 32


def is_nested_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie within each other more than ``levels`` deep.

    >>> is_nested_deeper([[1], {"a": 2}], 2)
    False
    >>> is_nested_deeper([[[]]], 2)
    True
    """
    # Level by level, without recursion: what is too deep for a stack must not be measured on one.
    level = [value]
    for _ in range(levels):
        level = [part for whole in level for part in _parts(whole)]
        if not level:
            return False
    return any(isinstance(part, (list, dict)) for part in level)


def _parts(whole: Any) -> Any:
    if isinstance(whole, dict):
        return whole.values()
    return whole if isinstance(whole, list) else ()

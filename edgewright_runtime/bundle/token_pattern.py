"""Which regular expressions of tokens a device takes: those that end in due time on every text.

Python's `re` tries every way in which a pattern can match. ``(\\w+)*!`` has 2^n of them on a text of n letters, and
holds the interpreter until it is through, so no timeout of the same process ends it. Here the ways are counted, as a
power of two and from above: a part that may be longer or shorter adds none where a character must follow that it cannot
hold itself, as in ``\\w+(?:-\\w+)*``. What is repeated has to be so throughout.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from edgewright_runtime.errors import IntegrityError

__all__ = ["token_pattern"]

_MAX_CHARACTERS = 1000
_MAX_NESTED = 3  # each level is looked at twice
# A part of any length multiplies the ways by the text's length. Three of them are taken, as in \w*[a-z]+\w*, and some
# choices beside them: each counts as this many bits, that one limit holds both.
_LONG_BITS = 4.0
_MAX_BITS = 15.0
_REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
_CHARACTERS = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}
_WITHOUT_WIDTH = {"AT", "ASSERT", "ASSERT_NOT"}
_Item = tuple[Any, Any]


def token_pattern(pattern: str) -> str:
    """The pattern itself.

    Raises:
        IntegrityError: it is no regular expression, has more than one group, or may take a time without limit.
    """
    what = f"manifest: the token pattern {pattern[:80]!r}"
    if len(pattern) > _MAX_CHARACTERS:
        raise IntegrityError(f"{what} has {len(pattern):,} characters, at most {_MAX_CHARACTERS:,}")
    parser = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
    try:
        parsed = parser.parse(pattern)
        bits = _bits(_flat(parsed), None, 0)
        # With several groups `findall` gives tuples, and no texts.
        groups = re.compile(pattern).groups if bits <= _MAX_BITS else 0
    # A count beyond 32 bits, groups nested too deeply, flags that exclude each other.
    except (re.error, OverflowError, RecursionError, ValueError) as e:
        raise IntegrityError(f"{what} is not a regular expression: {e}") from e
    if bits > _MAX_BITS:
        raise IntegrityError(
            f"{what} may take a time without limit on some texts; a part that is repeated, as in (\\w+)*, has to begin "
            "with a character that nothing else in it can hold, as in (-\\w+)*, and at most three parts may be of any "
            "length"
        )
    if groups > 1:
        raise IntegrityError(f"{what} has {groups} groups, at most one")
    return pattern


def _flat(items: Iterable[_Item]) -> list[_Item]:
    """Items in their order, groups without a repeat opened."""
    flat: list[_Item] = []
    for kind, value in items:
        if kind.name == "SUBPATTERN":
            flat += _flat(value[3])
        elif kind.name == "ATOMIC_GROUP":
            flat += _flat(value)
        else:
            flat.append((kind, value))
    return flat


def _bits(items: Sequence[_Item], follows: _Item | None, depth: int) -> float:
    """The logarithm to base 2 of the number of ways to match, with ``follows`` behind the last item."""
    total = 0.0
    for item in reversed(items):
        kind, value = item[0].name, item[1]
        if kind in _REPEATS:
            least, most, body = value
            total += _bits_of_repeat(least, most, body, follows, depth)
            # What may be left out says nothing of the character there.
            follows = _first(_flat(body)) if least else None
            continue
        if kind == "BRANCH":
            choices = [_flat(choice) for choice in value[1]]
            total += math.log2(len(choices)) + max(_bits(choice, follows, depth) for choice in choices)
        elif kind in ("ASSERT", "ASSERT_NOT"):
            total += _bits(_flat(value[1]), None, depth)
        elif kind.startswith("GROUPREF"):
            return math.inf  # how long it is depends on the text
        if kind not in _WITHOUT_WIDTH:
            follows = item if kind in _CHARACTERS else None
    return total


def _bits_of_repeat(least: int, most: int, body: Iterable[_Item], follows: _Item | None, depth: int) -> float:
    items = _flat(body)
    first = _first(items)
    # Of one character, it ends where what follows begins; of several, it goes on where it can begin.
    ends = first is not None and follows is not None and _apart(first, follows)
    choice = 0.0 if least == most or ends else min(math.log2(most - least + 1), _LONG_BITS)
    if len(items) == 1 and first is not None:
        return choice
    if depth == _MAX_NESTED:
        return math.inf
    again = _bits(items, first, depth + 1)
    return choice + (most * again if again else 0.0) + _bits(items, follows, depth + 1)


def _first(items: Sequence[_Item]) -> _Item | None:
    """The character that these begin with, where there must be one."""
    for item in items:
        if item[0].name in _CHARACTERS:
            return item
        if item[0].name not in _WITHOUT_WIDTH:
            return None
    return None


def _apart(one: _Item, other: _Item) -> bool:
    """Whether no character is both: told where one of them is a list of characters without a case."""
    return any(
        listed is not None and not any(_holds(against, character) for character in listed)
        for listed, against in ((_listed(one), other), (_listed(other), one))
    )


def _listed(item: _Item) -> list[str] | None:
    members = [item] if item[0].name == "LITERAL" else item[1] if item[0].name == "IN" else []
    if not members or any(kind.name != "LITERAL" for kind, _ in members):
        return None
    characters = [chr(code) for _, code in members]
    # With IGNORECASE a letter is others, too.
    return characters if all(c.lower() == c.upper() == c for c in characters) else None


def _holds(item: _Item, character: str) -> bool:
    kind, value = item[0].name, item[1]
    if kind == "LITERAL":
        return bool(value == ord(character))
    if kind == "NOT_LITERAL":
        return bool(value != ord(character))
    if kind == "RANGE":
        return bool(value[0] <= ord(character) <= value[1])
    if kind == "CATEGORY":
        return _in_category(value.name, character)
    if kind == "IN":
        negated = value[0][0].name == "NEGATE"
        held = any(_holds(member, character) for member in value[negated:])
        # Of a category that ASCII makes smaller, a character may be outside after all.
        return True if negated and not character.isascii() else held != negated
    return True


def _in_category(name: str, character: str) -> bool:
    kind = name.rpartition("_")[2]
    held = {"DIGIT": str.isdecimal, "SPACE": str.isspace}.get(kind, lambda c: c.isalnum() or c == "_")(character)
    if "_NOT_" not in name:
        return held
    return not held or not character.isascii()

"""Values that travel as JSON: a frozen dataclass is their one definition, and one strict reader reads them all.

What a field may hold stands at the field: its type, and in ``dataclasses.field(metadata=rule(...))`` what the type
cannot say. The names are pydantic's, which reads the same metadata on the workstation; nothing of it is needed here.
Hints are evaluated, by Python 3.9 too: ``Optional[X]``, never ``X | None``.

>>> from dataclasses import dataclass, field
>>> @dataclass(frozen=True)
... class Point:
...     x: int = field(metadata=rule(le=9))
>>> read(Point, {"x": 3}, "point")
Point(x=3)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgewright_runtime import strict_json
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.strict_json import fault, shown

__all__ = ["read", "rule"]

T = TypeVar("T")
_Rule = Mapping[str, Any]
_Read = Callable[[Any, str, str], Any]  # (value, the object that it stands in, its key there)

_ReadObject = Callable[[Any, str], Any]

_MAX_ITEMS = 100_000
_READERS: dict[Any, _ReadObject] = {}  # made once for each dataclass, since hints are slow to evaluate


def rule(
    description: str | None = None,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    allowed: Sequence[str] | None = None,
    form: Literal["path", "sha256"] | Callable[[str], str] | None = None,
    items: _Rule | Sequence[_Rule] | None = None,
    holds: str | None = None,
    read_as: Any = None,
    made_by: Callable[[Any], Any] | None = None,
    fail_fast: bool | None = None,
) -> dict[str, Any]:
    """What a field may hold, as the metadata of its `dataclasses.field`.

    ``ge``, ``gt`` and ``le`` bound a number; an integer without them is 0 to 2^53. ``min_length`` and ``max_length``
    (100,000 if left out) count the items of a list, ``items`` is their rule, or one for each of a tuple of fixed
    length, which ``holds`` describes. ``allowed`` names the texts, ``form`` says how one is written, or is a function
    that returns it or raises `IntegrityError`. ``made_by`` makes the value out of what is read by the hint ``read_as``.
    ``fail_fast`` has pydantic stop at a list's first fault, as `read` always does.
    """
    # Every parameter that was given, under its own name: nothing but parameters is local here.
    return {name: value for name, value in locals().items() if value is not None}


def read(kind: type[T], value: Any, what: str) -> T:
    """A ``kind`` out of parsed JSON; ``what`` names it in messages.

    Where ``kind`` has a method ``check(what)``, it judges the values together, and raises the same.

    Raises:
        IntegrityError: an unknown or missing key, a wrong type or range, or values that contradict each other.
    """
    instance: T = _object_reader(kind)(value, what)
    return instance


def _object_reader(kind: Any) -> _ReadObject:
    if kind not in _READERS:
        _READERS[kind] = _new_object_reader(kind)
    return _READERS[kind]


def _new_object_reader(kind: Any) -> _ReadObject:
    hints = get_type_hints(kind)
    readers = {f.name: _reader(f.metadata.get("read_as", hints[f.name]), f.metadata) for f in fields(kind)}
    check = getattr(kind, "check", None)

    def read_object(value: Any, what: str) -> Any:
        if not isinstance(value, dict):
            raise IntegrityError(f"{what}: expected an object, found {shown(value)}")
        # One comparison in the ordinary case; what differs is looked for only to be told.
        if value.keys() != readers.keys():
            unknown = sorted(value.keys() - readers.keys())
            if unknown:
                raise IntegrityError(f"{what}: unknown keys {unknown[:5]}")
            missing = next(name for name in readers if name not in value)
            raise IntegrityError(f"{what}: key '{missing}' is missing")
        instance = kind(**{name: reader(value[name], what, name) for name, reader in readers.items()})
        if check is not None:
            check(instance, what)
        return instance

    return read_object


def _reader(hint: Any, rules: _Rule) -> _Read:
    """What reads a value of this type under these rules."""
    made_by = rules.get("made_by")
    if made_by is not None:
        plain = _reader(hint, {name: value for name, value in rules.items() if name != "made_by"})
        return lambda value, what, key: made_by(plain(value, what, key))
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Union:
        # Optional[X]: the only union there is here.
        present = _reader(next(part for part in parts if part is not type(None)), rules)
        return lambda value, what, key: None if value is None else present(value, what, key)
    if origin is Literal:
        return partial(strict_json.text, allowed=parts)
    if origin is tuple:
        return _list_reader(parts[0], rules) if parts[-1] is ... else _fixed_reader(parts, rules)
    if origin is not None and issubclass(origin, Mapping):
        return _named_reader(_reader(parts[1], rules.get("items", {})))
    if is_dataclass(hint):
        whole = _object_reader(hint)
        return lambda value, what, key: whole(value, f"{what}.{key}")
    scalars: dict[Any, Callable[[_Rule], _Read]] = {str: _text, bool: _flag, int: _integer, float: _number}
    return scalars[hint](rules)


def _list_reader(hint: Any, rules: _Rule) -> _Read:
    item = _reader(hint, rules.get("items", {}))
    fewest, most = rules.get("min_length", 0), rules.get("max_length", _MAX_ITEMS)
    count = f"at most {most}" if not fewest else f"{most}" if fewest == most else f"{fewest} to {most}"
    allowed = f"a list of {count}"

    def read_list(value: Any, what: str, key: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or not fewest <= len(value) <= most:
            raise fault(value, what, key, allowed)
        try:
            return tuple([item(element, what, key) for element in value])
        except IntegrityError:  # told again with its place, which costs more than to read it
            return tuple([item(element, what, f"{key}[{i}]") for i, element in enumerate(value)])

    return read_list


def _fixed_reader(parts: Sequence[Any], rules: _Rule) -> _Read:
    given = rules.get("items", {})
    each = [given] * len(parts) if isinstance(given, Mapping) else given
    readers = [_reader(hint, own) for hint, own in zip(parts, each)]
    allowed = f"a list of {rules.get('holds', len(readers))}"

    def read_fixed(value: Any, what: str, key: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(readers):
            raise fault(value, what, key, allowed)
        return tuple([item(element, what, key) for item, element in zip(readers, value)])

    return read_fixed


def _named_reader(item: _Read) -> _Read:
    def read_named(value: Any, what: str, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise IntegrityError(f"{what}.{key}: expected an object, found {shown(value)}")
        return {name: item(value[name], f"{what}.{key}", name) for name in sorted(value)}

    return read_named


def _text(rules: _Rule) -> _Read:
    form = rules.get("form")
    if form == "sha256":
        return strict_json.sha256
    plain: _Read = partial(strict_json.text, allowed=tuple(rules.get("allowed", ())))
    if form == "path":
        return lambda value, what, key: strict_json.safe_path(plain(value, what, key), f"{what}.{key}")
    return plain if form is None else lambda value, what, key: form(plain(value, what, key))


def _flag(_: _Rule) -> _Read:
    return strict_json.flag


def _integer(rules: _Rule) -> _Read:
    low = rules.get("ge", rules["gt"] + 1 if "gt" in rules else 0)
    return partial(strict_json.whole, low=low, high=rules.get("le", strict_json.MAX_INTEGER))


def _number(rules: _Rule) -> _Read:
    above = rules.get("gt")
    within: _Read = partial(
        strict_json.number, low=rules.get("ge", -math.inf if above is None else above), high=rules.get("le", math.inf)
    )
    if above is None:
        return within

    def read_above(value: Any, what: str, key: str) -> float:
        number: float = within(value, what, key)
        if number <= above:
            raise fault(value, what, key, f"a number above {above}")
        return number

    return read_above

"""Values that users write as YAML: a whole file is right, or the first thing wrong with it is told in one line."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from edgewright.errors import InputError
from edgewright.strict_yaml import YamlError, parse_yaml
from edgewright.value import ValueKind, fields_of, is_value_kind
from edgewright_runtime.disk import read_plain

__all__ = ["first_fault", "read_value", "validated"]

V = TypeVar("V", bound=BaseModel)
Kinds = tuple[ValueKind, ...]
_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}  # pydantic's words for it, of models and of dataclasses

_MAX_BYTES = 1 << 20
_MAX_SHOWN = 200  # characters of a value that is wrong


def read_value(
    path: Path,
    kind: type[V],
    what: str,
    *,
    defaults: Mapping[str, Any] | None = None,
    error: type[InputError] = InputError,
) -> V:
    """A value of ``kind`` as a file describes it; ``defaults`` stand where the file has no such key.

    Raises:
        InputError: or its ``error``, which names the file as ``what``: unreadable, or a key or value is not allowed.
    """
    try:
        content = parse_yaml(read_plain(path, _MAX_BYTES).decode())
    except (OSError, UnicodeDecodeError, YamlError) as e:
        # str() of an OSError names the path, which stands in the message already.
        reason = (isinstance(e, OSError) and e.strerror) or e
        if isinstance(e, UnicodeDecodeError):
            reason = f"not UTF-8 text (byte {e.object[e.start]:#04x} at {e.start})"
        raise error(f"{what} {path}: cannot be read: {reason}") from e
    if not isinstance(content, dict):
        raise error(f"{what} {path}: cannot be read: it holds no keys with values")
    return validated(kind, {**(defaults or {}), **content}, f"{what} {path}: ", error=error)


def validated(kind: type[V], content: Mapping[str, Any], where: str = "", *, error: type[InputError] = InputError) -> V:
    """A value of ``kind``.

    Raises:
        InputError: or its ``error``, in one line that begins with ``where``: a key or value is not allowed.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as e:
        raise error(f"{where}{first_fault(e, kind)}") from e


def first_fault(error: ValidationError, kind: ValueKind) -> str:
    """The first thing that pydantic found wrong with a value of ``kind``: the key, the value, what is allowed."""
    # A misspelt key is also a missing one: the misspelling says more.
    fault = min(error.errors(), key=lambda detail: detail["type"] not in _UNKNOWN)
    key = ".".join(str(part) for part in fault["loc"])
    if not key:  # two keys that contradict each other
        return fault["msg"].removeprefix("Value error, ")
    if fault["type"] in _UNKNOWN:
        *way, written = fault["loc"]
        known = sorted({field for parent in _at((kind,), way) for field in fields_of(parent)})
        near = difflib.get_close_matches(str(written), known, n=1)
        return f"unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else f"; allowed: {', '.join(known)}")
    if fault["type"] == "missing":
        return f"key '{key}' is missing"
    reason = fault["msg"].removeprefix("Value error, ")
    # Pydantic's own messages begin with a capital letter; those of our validators may begin with a name.
    return f"{key} = {_shown(fault['input'])}: {reason[0].lower() if reason == fault['msg'] else reason[0]}{reason[1:]}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "an integer of thousands of digits"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _at(kinds: Kinds, way: list[int | str]) -> Kinds:
    """What a value may be where a path of keys, places in a list and tags of a union leads from ``kinds``."""
    for part in way:
        # A place in a list: its items' kind is among the kinds already, see `_models_in`.
        if isinstance(part, int):
            continue
        fields = [known[part] for kind in kinds if part in (known := fields_of(kind))]
        if fields:
            kinds = tuple(inner for field in fields for inner in _models_in(field.annotation))
        else:  # a tag: of the kinds, the one that has it; or the user's own key of a dictionary of them
            tagged = tuple(kind for kind in kinds if any(part == f.default for f in fields_of(kind).values()))
            kinds = tagged or kinds
    return kinds


def _models_in(annotation: Any) -> Iterator[ValueKind]:
    if is_value_kind(annotation):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)

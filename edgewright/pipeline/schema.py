"""What a profile, a recipe or a data file may say: key by key for a reader, as a JSON schema for an editor.

The keys are read from the models' fields, as a schema has no words for what a value here is.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from edgewright.value import Value, ValueKind, fields_of, is_value_kind

__all__ = ["Key", "json_schema", "keys_of"]

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def json_schema(kind: type[Value]) -> dict[str, Any]:
    """The JSON schema of a YAML file that describes such a value; its name may be left out, it is the file's own."""
    schema = kind.model_json_schema()
    schema["required"] = [name for name in schema.get("required", []) if name != "name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class Key(NamedTuple):
    """One key of a YAML file, dotted where it is nested; ``value`` is empty where it is left out."""

    name: str
    value: str
    allowed: str
    meaning: str


def keys_of(kind: ValueKind, value: Any, prefix: str = "") -> Iterator[Key]:
    """Every key of ``kind`` and, below them, those of the parts that it may have."""
    for name, info in fields_of(kind).items():
        held = getattr(value, name) if value is not None else None
        part = _part(info.annotation)
        yield Key(
            f"{prefix}{name}",
            "" if part else _shown(held),
            "keys below" if part else _allowed(info),
            info.description or (part.__doc__ or "").partition("\n")[0] if part else info.description or "",
        )
        if part:
            yield from keys_of(part, held, f"{prefix}{name}.")


def _part(annotation: Any) -> ValueKind | None:
    """The nested model that a field is, or may be."""
    return next((kind for kind in (annotation, *get_args(annotation)) if is_value_kind(kind)), None)


def _shown(held: Any) -> str:
    if held is None:
        return ""
    if isinstance(held, tuple | list):
        return ", ".join(_shown(item) for item in held)
    return str(held.value) if isinstance(held, Enum) else str(held)


def _allowed(info: FieldInfo) -> str:
    # pydantic keeps each bound as an object (Gt, Le, ...) with the number under the name of its kind.
    bounds = " and ".join(
        f"{sign} {getattr(limit, name):.15g}"
        for limit in info.metadata
        for name, sign in _BOUNDS.items()
        if getattr(limit, name, None) is not None
    )
    pattern = next((limit.pattern for limit in info.metadata if getattr(limit, "pattern", None)), None)
    description = f"{_kind(info.annotation)} {bounds}".strip() if pattern is None else f"text like {pattern}"
    return description if info.is_required() else f"{description}; may be left out"


def _kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in parts if part is not NoneType)
    if origin is Literal:
        return ", ".join(str(part) for part in parts)
    if origin in (tuple, list):
        return f"list of: {_kind(parts[0])}" if parts else "list"
    if origin in (dict, Mapping):
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(str(member.value) for member in annotation)
    if is_value_kind(annotation):
        return _tag(annotation)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "mapping"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _tag(kind: ValueKind) -> str:
    """What a file calls one of several kinds: the only text that one of its fields, such as ``technique``, may be."""
    texts = [get_args(info.annotation) for info in fields_of(kind).values() if get_origin(info.annotation) is Literal]
    return next((str(allowed[0]) for allowed in texts if len(allowed) == 1), kind.__name__.lower())

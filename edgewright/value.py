"""What every value that stages exchange is."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeGuard, get_type_hints

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

__all__ = ["Value", "ValueKind", "fields_of", "is_value_kind"]

# A pydantic model, or one of the device runtime's dataclasses, which pydantic validates by the same metadata.
ValueKind = type[Any]


class Value(BaseModel):
    """A frozen value that refuses unknown fields; what is written as JSON is read again as it was.

    JSON has no number for infinity, and pydantic's own ``null`` in its place is read as none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def is_value_kind(annotation: Any) -> TypeGuard[ValueKind]:
    """Whether a type is a model or a dataclass, with fields of its own."""
    return isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation))


def fields_of(kind: ValueKind) -> Mapping[str, FieldInfo]:
    """The fields of a model or a dataclass, with their descriptions and bounds."""
    if issubclass(kind, BaseModel):
        return kind.model_fields
    # The runtime's modules defer annotations: its dataclasses hold texts where types are needed.
    hints = get_type_hints(kind)
    return {f.name: FieldInfo.from_annotated_attribute(hints[f.name], f) for f in fields(kind)}

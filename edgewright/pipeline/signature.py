"""A function's signature made from a model's fields, so that both are written once."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["signature_of_fields"]

F = TypeVar("F", bound=Callable[..., Any])


def signature_of_fields(
    kind: type[BaseModel],
    beside: Callable[[str, FieldInfo], tuple[Any, ...]] = lambda name, field: (),
    *,
    leave_out: Sequence[str] = (),
) -> Callable[[F], F]:
    """Show a function's ``**keywords`` as the fields of ``kind``, before its other parameters.

    What reads signatures, as Prefect and Typer do, then sees each field with its type, its constraints, its default
    and what ``beside`` gives for it; the docstring has the descriptions.
    """

    def shown(function: F) -> F:
        own = [
            p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        fields = {name: field for name, field in kind.model_fields.items() if name not in leave_out}
        parameters = [_parameter(name, field, beside(name, field)) for name, field in fields.items()]
        # By keyword, as a parameter without a default may then follow one with.
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        returned = inspect.signature(function).return_annotation
        function.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
        # Typer takes types from the annotations, names and defaults from the signature.
        function.__annotations__ = {**{p.name: p.annotation for p in parameters}, "return": returned}
        lines = [f"    {name}: {field.description}" for name, field in fields.items()]
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
        return function

    return shown


def _parameter(name: str, field: FieldInfo, beside: tuple[Any, ...]) -> inspect.Parameter:
    annotation: Any = field.annotation
    for part in (*field.metadata, *beside):
        annotation = Annotated[annotation, part]
    default = inspect.Parameter.empty if field.is_required() else field.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

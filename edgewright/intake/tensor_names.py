"""Names of inputs and outputs that every target takes. No ML framework is imported here."""

import re

__all__ = ["data_names", "plain_name"]

# Core ML's identifiers: letters, digits and underscores, and no digit in front.
_INVALID = re.compile(r"\W|^(?=\d)")
_RESERVED = frozenset(
    {"any", "bool", "dict", "false", "func", "list", "program", "state", "string", "tensor", "true", "tuple"}
    | {"bf16", "fp16", "fp32", "fp64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Words of Core ML's program text: coremltools calls a tensor of such a name something else."""


def plain_name(name: str) -> str:
    """A name that every target takes for an identifier: ``a/b`` becomes ``a_b``, ``state`` becomes ``state_``."""
    plain = _INVALID.sub("_", name)
    return f"{plain}_" if plain in _RESERVED else plain


def data_names(name: str) -> tuple[str, ...]:
    """What an input of that name may be called in the data: so, or by the word that it was made of."""
    word = name.removesuffix("_")
    return (name, word) if name != word and word in _RESERVED else (name,)

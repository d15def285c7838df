"""What a bundle says of itself: one definition, for the workstation that writes it and the device that reads it.

A manifest is JSON. Everything the device needs to run the model stands in it; nothing that changes between
two builds of the same inputs does (no time, no path, no host).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCHEMA_VERSION", "Column", "Preprocessing", "TensorSpec"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    ``shape`` holds -1 for the batch axis where it is free; ``scale`` and ``zero_point`` stand where the
    tensor is stored as integers: ``real = scale * (stored - zero_point)``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Column:
    """One column of a raw table row, in the order of the model's ``features`` input.

    A category is replaced by its code; a value outside ``vocabulary`` becomes -1, as the source model's own
    "unknown" (all zeros after one-hot encoding). A number that is missing becomes NaN where ``optional``.
    """

    name: str
    kind: str  # "number" or "category"
    vocabulary: tuple[tuple[str, int], ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a raw input before the model sees it.

    Tables: ``columns`` encode a row to ``(N, len(columns)) float32``. Tensors: ``(raw - mean) * scale``,
    reshaped to the input's shape.
    """

    columns: tuple[Column, ...] = ()
    scale: float = 1.0
    mean: float = 0.0

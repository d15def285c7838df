"""An exported file as a computation that can be run operator by operator, from any values. Runs in a child process."""

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgewright.errors import InputError
from edgewright.export.runs import Arrays

__all__ = ["Computation", "Operator", "Quantization", "moving", "narrowest", "require_inputs"]

# From the widest to the narrowest; what is not listed (integers that count, truth values) is not rounded.
_WIDTHS = (
    "float64", "float32", "bfloat16", "float16", "int16", "uint16", "int8", "uint8", "uint6", "int4", "uint4", "uint3",
    "uint2", "uint1",
)  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """One operator: its kind in the platform's words, and the values that it reads (of those that depend on the
    model's inputs) and gives.

    ``dtype`` is the narrowest in which its results or weights are stored. ``node`` is a name of its own, where the
    format has such names. ``moves``: it computes nothing, but gives its numbers another shape or dtype, or another
    order.
    """

    kind: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    dtype: str
    node: str = ""
    moves: Literal["", "shape", "order"] = ""

    @property
    def name(self) -> str:
        """What it gives names it."""
        return self.gives[0]


@dataclass(frozen=True)
class Quantization:
    """Real = (stored - zero point) * scale, one of them or one for each index of ``axis``."""

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0

    def real(self, stored: np.ndarray) -> np.ndarray:
        """As real numbers."""
        # In float64, since float32 holds whole numbers of up to 24 bits exactly, and a bias has 32.
        scale, zero = self._shaped(stored.ndim)
        real: np.ndarray = ((stored.astype(np.float64) - zero) * scale).astype(np.float32)
        return real

    def stored(self, real: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """Rounded, and clipped to what the dtype holds."""
        scale, zero = self._shaped(real.ndim)
        bounds = np.iinfo(dtype)
        # Halves go to the even number, as ONNX's QuantizeLinear rounds them.
        steps = np.round(real.astype(np.float64) / scale) + zero
        rounded: np.ndarray = np.clip(steps, bounds.min, bounds.max).astype(dtype)
        return rounded

    def _shaped(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        if self.scale.size == 1:
            return self.scale.reshape(()), self.zero_point.reshape(-1)[0]
        # One scale for each index of the axis broadcasts over all others.
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def moving(kind: str, shapes: Container[str], orders: Container[str]) -> Literal["", "shape", "order"]:
    """What an operator of that kind moves."""
    if kind in orders:
        return "order"
    return "shape" if kind in shapes else ""


class Computation(ABC):
    """An exported file.

    ``operators`` stand in an order in which they can be computed; ``outputs`` are the values that the model's outputs
    are, in the model's order. Values are held as the runtime holds them.
    """

    operators: Sequence[Operator]
    outputs: Sequence[str]
    quantized: Mapping[str, Quantization]

    @abstractmethod
    def entered(self, row: Arrays) -> dict[str, Any]:
        """The values that a row's inputs (1, ...) are, as this file takes them."""

    @abstractmethod
    def computed(self, operator: Operator, values: Mapping[str, Any]) -> dict[str, Any]:
        """What one operator gives on these values.

        Raises:
            ConversionError: it does not run on them.
        """

    @abstractmethod
    def whole(self, row: Arrays) -> list[np.ndarray]:
        """The outputs for a row as the runtime computes them, with all that it fuses.

        Raises:
            ConversionError: it does not run the file.
        """

    def real(self, name: str, value: Any) -> np.ndarray | None:
        """A value as an array of numbers, dequantized; None where it is none."""
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            return None
        if name in self.quantized:
            return self.quantized[name].real(value)
        return value.astype(np.float32) if value.dtype == np.float16 else value

    def stored(self, name: str, real: np.ndarray, like: Any) -> Any:
        """Numbers as this file holds that value: the inverse of `real`."""
        if name in self.quantized:
            return self.quantized[name].stored(real, like.dtype)
        # Beyond half precision's range a number is infinite, as it is in the file.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(real, dtype=like.dtype)


def require_inputs(path: Path, inputs: Sequence[str], model_inputs: Sequence[str]) -> None:
    """Refuse a file that takes more inputs than its model, or fewer.

    Raises:
        InputError: it does.
    """
    if len(inputs) != len(model_inputs):
        raise InputError(
            f"{path.name}: the file takes {len(inputs)} inputs ({', '.join(inputs)}), the model {len(model_inputs)} "
            f"({', '.join(model_inputs)}): give a file that was made of this model"
        )


def narrowest(dtypes: Sequence[str]) -> str:
    """The one of them that rounds most; float32 where none rounds."""
    known = [dtype for dtype in dtypes if dtype in _WIDTHS]
    return max(known, key=_WIDTHS.index, default="float32")

"""What TensorFlow's process tells of a Keras file or SavedModel."""

from pydantic import Field

from edgewright.value import Value
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["Described", "LoadResult"]


class Described(Value):
    """A model that was loaded, and by which ``loader``; ``refusal``: why there is no ``model.onnx`` of it.

    ``numbers``: what inputs that are one number for all rows were fixed at.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    loader: str
    notes: tuple[str, ...]
    refusal: str | None
    numbers: dict[str, bool | int | float] = Field(default_factory=dict)


class LoadResult(Value):
    """The model, or the ``failure`` of this loader: another may read the file."""

    model: Described | None = None
    failure: str = ""

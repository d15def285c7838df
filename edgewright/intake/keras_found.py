"""What TensorFlow's process tells of a Keras file or SavedModel."""

from edgewright.value import Value
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["Answer", "Described"]


class Described(Value):
    """A model that was loaded, and by which ``loader``; ``refusal``: why there is no ``model.onnx`` of it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    loader: str
    notes: tuple[str, ...]
    refusal: str | None


class Answer(Value):
    """The model, or the ``failure`` of this loader: another may read the file."""

    model: Described | None = None
    failure: str = ""

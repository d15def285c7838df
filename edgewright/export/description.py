"""What the metadata of a `.tflite` says of it."""

from edgewright.value import Value

__all__ = ["Description"]


class Description(Value):
    """Texts, ``mean`` and ``scale`` of ``(raw - mean) * scale``, the tensors' names, and the output with labels."""

    name: str
    description: str
    version: str
    author: str
    mean: float
    scale: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    labelled: str | None

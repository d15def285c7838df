"""Code a model file for transfer, whatever its format."""

from pathlib import Path

from edgewright.codec.containers import find_tensors
from edgewright.codec.writer import Coder, Encoded, encode

__all__ = ["encode_file"]


def encode_file(path: Path, *, coder: Coder = "auto") -> Encoded:
    """The ``.ewz`` of a ``.tflite``, an ``.onnx`` or a Core ML weight file (``weight.bin`` in an ``.mlpackage``).

    Raises:
        InputError: the file is of no known kind.
    """
    content = path.read_bytes()
    return encode(content, find_tensors(content), coder=coder)

"""The tensors that an exported file itself declares: the manifest repeats what the device will find."""

from dataclasses import dataclass
from pathlib import Path

from edgewright.child import run_in_child
from edgewright_runtime.manifest import TensorSpec

__all__ = ["Declared", "declared_by"]


@dataclass(frozen=True)
class Declared:
    """Inputs and outputs of a file; ``runtime_floor`` where the file decides which runtime loads it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime_floor: str | None


def declared_by(path: Path, reader: str) -> Declared:
    """Ask a reader module (``tflite``, ``mlpackage``, ``onnx_file``) of this package, in a child process."""
    answer = run_in_child(f"edgewright.export.{reader}:tensors", {"path": str(path)}, what=f"reading {path.name}").value
    inputs, outputs = (
        tuple(TensorSpec(**{**fields, "shape": tuple(fields["shape"])}) for fields in answer[side])
        for side in ("inputs", "outputs")
    )
    return Declared(inputs, outputs, answer.get("runtime_floor"))

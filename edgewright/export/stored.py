"""What a model file actually stores, for ``edgewright inspect``: a "float32" file may well hold int8 weights."""

from pathlib import Path

from edgewright.artifact import Format, Value, digest_of, size_of
from edgewright.child import run_in_child
from edgewright.errors import UnsupportedError
from edgewright_runtime.manifest import TensorSpec

__all__ = ["StoredModel", "StoredWeights", "describe", "format_of"]

_READERS = {
    Format.TFLITE: "tflite_model",
    Format.MLPACKAGE: "coreml_model",
    Format.ONNX: "onnx_model",
    Format.TORCH_GRAPH: "torch_model",
    Format.PT2: "torch_model",
    Format.SKLEARN: "sklearn_model",
}
_GRAPH_MARK = b"edgewright_graph"
_HEAD_BYTES = 1 << 12


class StoredWeights(Value):
    """All constant tensors of one stored dtype: ``bytes`` in the file, ``zeros`` elements that are zero."""

    dtype: str
    tensors: int
    elements: int
    bytes: int
    zeros: int


class StoredModel(Value):
    """A model file looked into. ``parameters`` leaves out integers that are no weights: shapes, indices, axes."""

    format: Format
    digest: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[StoredWeights, ...]
    parameters: int
    sparsity: float | None
    operators: dict[str, int]
    notes: tuple[str, ...] = ()


def format_of(path: Path) -> Format:
    """The format of any model file that Edgewright reads or writes, judged by its content.

    Raises:
        InputError: missing, empty, damaged or unknown.
    """
    if (path / "Manifest.json").is_file():
        return Format.MLPACKAGE
    if path.is_file():
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        if head[4:8] == b"TFL3":
            return Format.TFLITE
        if head[8:9] == b"{" and _GRAPH_MARK in head:  # safetensors: length of the header, then its JSON
            return Format.TORCH_GRAPH
    from edgewright.intake.formats import detect_format

    return detect_format(path)


def describe(path: Path) -> StoredModel:
    """Read a model file in a child process and say what stands in it.

    Raises:
        InputError: missing, damaged or of an unknown format.
        UntrustedModelError: a pickle that names something outside the allow-list; nothing of it has run.
        UnsupportedError: a format that is read by the intake only.
    """
    form = format_of(path)
    if form not in _READERS:
        raise UnsupportedError(f"{path}: {form.value} models are not looked into; deploy or import it first")
    reader = f"edgewright.export.readers.{_READERS[form]}:read"
    found = run_in_child(reader, {"path": str(path), "form": form.value}, what=f"reading {path.name}").value
    weights = tuple(StoredWeights(**entry) for entry in found["weights"])
    parameters = found["parameters"]
    return StoredModel(
        format=form,
        digest=digest_of(path),
        size_bytes=size_of(path),
        inputs=tuple(_spec(fields) for fields in found["inputs"]),
        outputs=tuple(_spec(fields) for fields in found["outputs"]),
        weights=weights,
        parameters=parameters,
        sparsity=found["parameter_zeros"] / parameters if parameters else None,
        operators=dict(sorted(found["operators"].items(), key=lambda item: (-item[1], item[0]))),
        notes=tuple(found["notes"]),
    )


def _spec(fields: dict[str, object]) -> TensorSpec:
    return TensorSpec(**{**fields, "shape": tuple(fields["shape"])})  # type: ignore[arg-type]

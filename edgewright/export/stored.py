"""What a model file actually stores, for ``edgewright inspect``: a "float32" file may well hold int8 weights."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.artifact import Format, digest_of, size_of
from edgewright.child import deferred, run_in_child
from edgewright.errors import UnsupportedError
from edgewright.export.readers.contents import Contents, StoredWeights
from edgewright.value import Value
from edgewright_runtime.bundle.manifest import TensorSpec

if TYPE_CHECKING:
    from edgewright.export.readers.coreml_model import read as read_coreml
    from edgewright.export.readers.onnx_model import read as read_onnx
    from edgewright.export.readers.sklearn_model import read as read_sklearn
    from edgewright.export.readers.tflite_model import read as read_tflite
    from edgewright.export.readers.torch_model import read as read_torch
else:
    read_coreml = deferred("edgewright.export.readers.coreml_model:read")
    read_onnx = deferred("edgewright.export.readers.onnx_model:read")
    read_sklearn = deferred("edgewright.export.readers.sklearn_model:read")
    read_tflite = deferred("edgewright.export.readers.tflite_model:read")
    read_torch = deferred("edgewright.export.readers.torch_model:read")

__all__ = ["StoredModel", "StoredWeights", "describe", "format_of"]

_GRAPH_MARK = b"edgewright_graph"
_HEAD_BYTES = 1 << 12


class StoredModel(Value):
    """A model file looked into. ``parameters`` leaves out integers that are not weights: shapes, indices, axes."""

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
    # The formats that intake does not take in come first: its own detection would call them unknown.
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
    contents = run_in_child(_reading(path, form), returns=Contents, what=f"reading {path.name}").value
    parameters = contents.parameters
    return StoredModel(
        format=form,
        digest=digest_of(path),
        size_bytes=size_of(path),
        inputs=contents.inputs,
        outputs=contents.outputs,
        weights=contents.weights,
        parameters=parameters,
        sparsity=contents.parameter_zeros / parameters if parameters else None,
        # The most frequent first, alike ones by name: two runs show the same.
        operators=dict(sorted(contents.operators.items(), key=lambda item: (-item[1], item[0]))),
        notes=contents.notes,
    )


def _reading(path: Path, form: Format) -> "partial[Contents]":
    match form:
        case Format.TFLITE:
            return partial(read_tflite, path)
        case Format.MLPACKAGE:
            return partial(read_coreml, path)
        case Format.ONNX:
            return partial(read_onnx, path)
        case Format.TORCH_GRAPH | Format.PT2:
            return partial(read_torch, path, form)
        case Format.SKLEARN:
            return partial(read_sklearn, path)
        case Format.TORCH_FACTORY:
            from edgewright.intake.companion_files import read_factory

            factory = read_factory(path).factory
            raise UnsupportedError(
                f"{path}: names a function, {factory}, which is not called here; deploy it first, then "
                "inspect the bundle"
            )
        case _:
            raise UnsupportedError(f"{path}: {form.value} models are not looked into; deploy it first")

"""Android: LiteRT's `.tflite`, by litert-torch from the torch graph and by ai-edge-quantizer from there."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import run_in_child
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.declared import checked
from edgewright.export.refusal import graph_of, quantization_arguments
from edgewright.export.reuse import reuse
from edgewright.profile import ExportOptions
from edgewright.recipe import Quantize
from edgewright.store import Store, replace_file

__all__ = ["export"]

_CHILD = "edgewright.export.litert"
_TENSORFLOW = "edgewright.export.tensorflow_lite"
_CLEARLY_FASTER = 0.95
_RUNTIME = "litert"
# Every operator version that litert-torch and ai-edge-quantizer write is in the runtime of that release.
_RUNTIME_FLOOR = "1.0.1"


def export(
    model: ImportedModel,
    dataset: Dataset,
    precision: Precision,
    store: Store,
    options: ExportOptions,
    quantization: Quantize,
) -> Exported:
    """A `.tflite` with batch 1; float16 and int8 are made of the float32 file, not converted again."""
    artifact, notes = _fastest_float32(model, dataset, store)
    if precision is not Precision.FLOAT32:
        arguments: dict[str, Any] = {"precision": precision.value, "labels": list(model.labels)}
        if precision is Precision.INT8:
            arguments |= {"dataset": str(dataset.artifact.path), "integer_tensors": options.integer_tensors}
            arguments |= quantization_arguments(model, quantization)
        artifact = _quantized(model, artifact, store, arguments)
    declared = checked(model, artifact, dataset, precision)
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=declared.inputs,
        outputs=declared.outputs,
        notes=(*notes, *declared.notes),
        runtime=_RUNTIME,
        runtime_floor=_RUNTIME_FLOOR,
    )


def _fastest_float32(model: ImportedModel, dataset: Dataset, store: Store) -> tuple[Artifact, tuple[str, ...]]:
    """By way of torch; or, for an unmodified Keras source, by TensorFlow's own converter where that runs faster."""
    ours = _float32(model, store)
    untouched = model.graph is not None and model.graph.parent == model.onnx.digest
    if not untouched or model.source.format not in {Format.KERAS, Format.SAVED_MODEL}:
        return ours, ()
    try:
        theirs = _by_tensorflow(model, store)
        checked(model, theirs, dataset, Precision.FLOAT32)
    except (ConversionError, UnsupportedError) as e:
        return ours, (f"TensorFlow's own converter was not used: {str(e).splitlines()[0]}",)
    note = store.root / "exports" / f"race-{ours.digest[:16]}-{theirs.digest[:16]}.json"
    if not note.exists():  # decided once: a repeated export must give the same file
        paths = [str(ours.path), str(theirs.path)]
        times = run_in_child(f"{_TENSORFLOW}:race", {"paths": paths}, what=f"timing two forms of {model.name}").value
        replace_file(note, json.dumps(times).encode())
    by_torch_ms, by_tensorflow_ms = json.loads(note.read_text())
    figures = (
        f"{by_tensorflow_ms:.3f} ms by TensorFlow's converter, {by_torch_ms:.3f} ms by way of torch, on this machine"
    )
    faster = by_tensorflow_ms < _CLEARLY_FASTER * by_torch_ms
    return (theirs if faster else ours), (f"kept the {'former' if faster else 'latter'}: {figures}",)


def _by_tensorflow(model: ImportedModel, store: Store) -> Artifact:
    description = _description(model)
    legacy = any("tf-keras" in note for note in model.notes)

    def convert(path: Path) -> None:
        arguments = {
            "source": str(model.source.path),
            "form": model.source.format.value,
            "legacy": legacy,
            "inputs": [dataclasses.asdict(spec) for spec in model.inputs],
            "path": str(path),
        }
        environment = {"TF_USE_LEGACY_KERAS": "1"} if legacy else {}
        what = f"converting {model.name} by TensorFlow"
        convert_in_child(f"{_TENSORFLOW}:convert", arguments, what=what, environment=environment)
        named = {"path": str(path), "description": description, "labels": list(model.labels)}
        convert_in_child(f"{_CHILD}:describe", named, what=f"describing {model.name}'s .tflite")

    key = ("tensorflow lite float32", model.source.digest, description, model.labels)
    return reuse(store, key, convert, name=f"{model.name}.tflite", form=Format.TFLITE, parent=model.source.digest)


def _float32(model: ImportedModel, store: Store) -> Artifact:
    graph, description = graph_of(model, "android"), _description(model)

    def convert(path: Path) -> None:
        arguments = {
            "graph": str(graph),
            "inputs": [dataclasses.asdict(spec) for spec in model.inputs],
            "path": str(path),
        }
        convert_in_child(f"{_CHILD}:convert", arguments, what=f"converting {model.name} to LiteRT")
        # In a child of its own, since the converter's memory does not come back.
        named = {"path": str(path), "description": description, "labels": list(model.labels)}
        convert_in_child(f"{_CHILD}:describe", named, what=f"describing {model.name}'s .tflite")

    parent = model.graph.digest if model.graph else None
    tensors = [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)]
    key = ("litert float32", parent, tensors, description, model.labels)
    return reuse(store, key, convert, name=f"{model.name}.tflite", form=Format.TFLITE, parent=parent)


def _quantized(model: ImportedModel, base: Artifact, store: Store, arguments: dict[str, Any]) -> Artifact:
    with store.workspace() as folder:
        path = folder / f"{model.name}.tflite"
        arguments = {"source": str(base.path), "name": model.name, "path": str(path), **arguments}
        convert_in_child(f"{_CHILD}:quantize", arguments, what=f"quantizing {model.name} for LiteRT")
        return store.put(path, Format.TFLITE, parent=base.digest)


def _description(model: ImportedModel) -> dict[str, Any]:
    """What the metadata says: see `edgewright.export.tflite_metadata.attach`."""
    classes = len(model.labels)
    labelled = [s.name for s in model.outputs if classes and s.shape[-1:] == (classes,) and s.dtype.startswith("float")]
    return {
        "name": model.name,
        "description": f"{model.task.value}{f', {classes} classes' if classes else ''}",
        "version": model.source.digest[:12],
        "author": "Converted by Edgewright",
        "mean": model.preprocessing.mean,
        "scale": model.preprocessing.scale,
        "inputs": [spec.name for spec in model.inputs],
        "outputs": [spec.name for spec in model.outputs],
        "labelled": labelled[0] if labelled else None,
    }

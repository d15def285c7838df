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
from edgewright.export.kept_float import Kept, converted
from edgewright.export.refusal import graph_of, quantization_arguments
from edgewright.export.reuse import reuse
from edgewright.export.tensorflow_source import environment_of, is_tensorflow, source_of
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
    """A `.tflite` with batch 1; float16 and int8 are made of the float32 file, not converted again.

    Without a torch graph, or where ours is refused, TensorFlow's own converter takes an unmodified Keras source.
    """
    base, notes = _fastest_float32(model, dataset, store)
    arguments: dict[str, Any] = {"precision": precision.value, "labels": list(model.labels)}
    if precision is Precision.INT8:
        arguments |= {"dataset": str(dataset.artifact.path), "integer_tensors": options.integer_tensors}
        arguments |= quantization_arguments(model, quantization)

    said: list[str] = []

    def make(kept: Kept) -> Artifact:
        if precision is Precision.FLOAT32:
            return base
        made, said[:] = _quantized(model, base, store, {**arguments, "kept": sorted(kept)})
        return made

    done = converted(model, dataset, precision, make)
    return Exported(
        artifact=done.artifact,
        precision=precision,
        inputs=done.declared.inputs,
        outputs=done.declared.outputs,
        notes=(*notes, *said, *done.declared.notes, *done.notes),
        runtime=_RUNTIME,
        runtime_floor=_RUNTIME_FLOOR,
        float_layers=done.float_layers,
    )


def _fastest_float32(model: ImportedModel, dataset: Dataset, store: Store) -> tuple[Artifact, tuple[str, ...]]:
    """By way of torch; or, for an unmodified Keras source, by TensorFlow's own converter where that runs faster.

    Raises:
        UnsupportedError: neither way gives a file that answers as the source.
    """
    if not is_tensorflow(model):
        return _float32(model, store), ()
    made: dict[str, Artifact] = {}
    refusals: dict[str, str] = {}
    for way, convert in (("torch", _float32), ("tensorflow", _by_tensorflow)):
        if way == "torch" and model.graph is None:
            refusals[way] = str(model.graph_refusal)
            continue
        try:
            made[way] = convert(model, store)
        except (ConversionError, UnsupportedError) as e:
            refusals[way] = str(e)
    way, said = _decided(model, dataset, store, made, refusals)
    return made[way], (said,)


def _decided(
    model: ImportedModel, dataset: Dataset, store: Store, made: dict[str, Artifact], refusals: dict[str, str]
) -> tuple[str, str]:
    """The way whose file is kept, and why. Times decide once: a repeated export must give the same file."""
    note = store.root / "exports" / f"race-{'-'.join(artifact.digest[:16] for artifact in made.values())}.json"
    if len(made) > 1 and note.exists():
        way, said = json.loads(note.read_text())
        return way, said
    for way, artifact in made.items():
        try:
            checked(model, artifact, dataset, Precision.FLOAT32)
        except (ConversionError, UnsupportedError) as e:
            refusals[way] = str(e)
    match [way for way in made if way not in refusals]:
        case []:
            raise UnsupportedError(
                f"{model.name} has no path to android: {refusals['torch']}; nor by TensorFlow's own converter: "
                f"{refusals['tensorflow']}"
            )
        case ["torch"]:
            return "torch", f"TensorFlow's own converter was not used: {refusals['tensorflow']}"
        case ["tensorflow"]:
            return "tensorflow", f"made by TensorFlow's own converter of the source: {refusals['torch']}"
    paths = [str(made[way].path) for way in ("torch", "tensorflow")]
    times = run_in_child(f"{_TENSORFLOW}:race", {"paths": paths}, what=f"timing two forms of {model.name}").value
    by_torch_ms, by_tensorflow_ms = times
    figures = (
        f"{by_tensorflow_ms:.3f} ms by TensorFlow's converter, {by_torch_ms:.3f} ms by way of torch, on this machine"
    )
    faster = by_tensorflow_ms < _CLEARLY_FASTER * by_torch_ms
    decided = "tensorflow" if faster else "torch", f"kept the {'former' if faster else 'latter'}: {figures}"
    replace_file(note, json.dumps(decided).encode())
    return decided


def _by_tensorflow(model: ImportedModel, store: Store) -> Artifact:
    description = _description(model)

    def convert(path: Path) -> None:
        arguments = {"path": str(path), "count": len(model.inputs), **source_of(model)}
        what = f"converting {model.name} by TensorFlow"
        convert_in_child(f"{_TENSORFLOW}:convert", arguments, what=what, environment=environment_of(model))
        named = {"path": str(path), "description": description, "labels": list(model.labels)}
        convert_in_child(f"{_CHILD}:describe", named, what=f"describing {model.name}'s .tflite")

    tensors = [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)]
    key = ("tensorflow lite float32", model.source.digest, tensors, description, model.labels)
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


def _quantized(
    model: ImportedModel, base: Artifact, store: Store, arguments: dict[str, Any]
) -> tuple[Artifact, list[str]]:
    with store.workspace() as folder:
        path = folder / f"{model.name}.tflite"
        arguments = {"source": str(base.path), "name": model.name, "path": str(path), **arguments}
        said = convert_in_child(f"{_CHILD}:quantize", arguments, what=f"quantizing {model.name} for LiteRT").value
        return store.put(path, Format.TFLITE, parent=base.digest), said


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

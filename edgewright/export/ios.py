"""iOS: Core ML's `.mlpackage` (ML program), by coremltools from the torch graph."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.export.converter import convert_in_child
from edgewright.export.declared import checked
from edgewright.export.pixels import refuse_other_than_pixels
from edgewright.export.refusal import graph_of, quantization_arguments, unsupported_precision
from edgewright.export.reuse import reuse
from edgewright.profile import ExportOptions
from edgewright.recipe import Quantize
from edgewright.store import Store
from edgewright_runtime.manifest import TensorSpec

__all__ = ["export"]

_CHILD = "edgewright.export.coreml"
_RUNTIME = "coreml"
_RUNTIME_FLOOR = "16.0"  # iOS 16: the oldest with compressed weights decoded as constexpr operators


def export(
    model: ImportedModel,
    dataset: Dataset,
    precision: Precision,
    store: Store,
    options: ExportOptions,
    quantization: Quantize,
) -> Exported:
    """An `.mlpackage` for iOS 16 and later, batch 1.

    float16 computes in half precision (the Neural Engine's own); int8 stores the weights of that in 8 bits per
    channel, int4 as indices into 16 values of each tensor; activations stay float16. Inputs and outputs are float32 at
    every precision.
    """
    if precision is Precision.DYNAMIC_INT8:
        raise unsupported_precision(model.name, precision, "Core ML's int8 is of weights only already: use int8")
    if options.image_inputs:
        refuse_other_than_pixels(model, dataset)
    compute = Precision.FLOAT32 if precision is Precision.FLOAT32 else Precision.FLOAT16
    artifact = _converted(model, compute, store, options)
    if precision is Precision.INT8:
        # Activations stay half precision, so there is no range to calibrate.
        told = quantization_arguments(model, quantization)
        artifact = _smaller(model, artifact, store, "quantize", {key: told[key] for key in ("graph", "float_layers")})
    elif precision is Precision.INT4:
        artifact = _smaller(model, artifact, store, "palettize", {})
    declared = checked(model, artifact, dataset, precision)
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=tuple(_of_one_row(s) for s in model.inputs) if options.image_inputs else declared.inputs,
        outputs=_outputs(model, declared.outputs),
        notes=(*declared.notes, *_told(model, options)),
        runtime=_RUNTIME,
        runtime_floor=_RUNTIME_FLOOR,
    )


def _outputs(model: ImportedModel, declared: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The source's outputs as the file declares them; a classifier's scores, a dictionary there, as their tensor."""
    known = {spec.name: spec for spec in declared}
    return tuple(known.get(spec.name) or _of_one_row(spec) for spec in model.outputs)


def _of_one_row(spec: TensorSpec) -> TensorSpec:
    return dataclasses.replace(spec, shape=(1, *spec.shape[1:]))


def _told(model: ImportedModel, options: ExportOptions) -> list[str]:
    said = []
    if options.image_inputs:
        said.append("inputs are images: an app gives 8-bit pixels, normalization stands in the file")
    if options.class_labels:
        given = f"a classifier: an app gets the class and the score of each of {len(model.labels)} labels"
        said.append(given if model.labels else "class_labels has no effect: the model has no class labels")
    return said


def _converted(model: ImportedModel, compute: Precision, store: Store, options: ExportOptions) -> Artifact:
    graph = graph_of(model, "ios")
    description = _description(model, options)
    pixels = {"scale": model.preprocessing.scale, "mean": model.preprocessing.mean} if options.image_inputs else None
    labels = list(model.labels) if options.class_labels and model.labels else None

    def convert(path: Path) -> None:
        arguments = {
            "graph": str(graph),
            "inputs": [dataclasses.asdict(spec) for spec in model.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in model.outputs],
            "compute": compute.value,
            "description": description,
            "pixels": pixels,
            "labels": labels,
            "path": str(path),
        }
        convert_in_child(f"{_CHILD}:convert", arguments, what=f"converting {model.name} to Core ML")

    parent = model.graph.digest if model.graph else None
    tensors = [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)]
    key = ("coreml", compute.value, parent, tensors, description, pixels, labels)
    return reuse(store, key, convert, name=f"{model.name}.mlpackage", form=Format.MLPACKAGE, parent=parent)


def _smaller(model: ImportedModel, base: Artifact, store: Store, change: str, options: dict[str, Any]) -> Artifact:
    with store.workspace() as folder:
        path = folder / f"{model.name}.mlpackage"
        arguments = {"source": str(base.path), "name": model.name, "path": str(path), **options}
        convert_in_child(f"{_CHILD}:{change}", arguments, what=f"quantizing {model.name} for Core ML")
        return store.put(path, Format.MLPACKAGE, parent=base.digest)


def _description(model: ImportedModel, options: ExportOptions) -> dict[str, str]:
    """What Xcode shows of a model; nothing in it changes between two builds of the same source."""
    classes = f", {len(model.labels)} classes" if model.labels else ""
    texts = {
        "short_description": f"{model.name}: {model.task.value}{classes}",
        "author": "Converted by Edgewright",
        "version": model.source.digest[:12],
        "task": model.task.value,
        "source_digest": model.source.digest,
    }
    if model.labels:
        texts["classes"] = json.dumps(list(model.labels))
        scores = [s.name for s in model.outputs if s.shape[1:] == (len(model.labels),) and s.dtype.startswith("float")]
        if options.class_labels and scores:
            texts["scores"] = scores[0]
    if options.image_inputs:
        texts |= {"pixel_scale": repr(model.preprocessing.scale), "pixel_mean": repr(model.preprocessing.mean)}
    return texts

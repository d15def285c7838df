"""Android: LiteRT's `.tflite`, by litert-torch from the torch graph and by ai-edge-quantizer from there."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import deferred, run_in_child
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.declared import checked
from edgewright.export.description import Description
from edgewright.export.int8 import Int8, int8_of
from edgewright.export.kept_float import converted, with_layers_only
from edgewright.export.noisy_layers import AIM_DB, Way, refuse_noise, with_noisy_layers_float
from edgewright.export.refusal import graph_of
from edgewright.export.reuse import reuse
from edgewright.export.tensorflow_source import environment_of, is_tensorflow, source_of
from edgewright.profile import ExportOptions
from edgewright.recipe import Quantize
from edgewright.store import Store, replace_file

if TYPE_CHECKING:
    from edgewright.export.litert import convert, describe, quantize
    from edgewright.export.tensorflow_lite import convert as convert_by_tensorflow
    from edgewright.export.tensorflow_lite import race
else:
    convert = deferred("edgewright.export.litert:convert")
    describe = deferred("edgewright.export.litert:describe")
    quantize = deferred("edgewright.export.litert:quantize")
    convert_by_tensorflow = deferred("edgewright.export.tensorflow_lite:convert")
    race = deferred("edgewright.export.tensorflow_lite:race")

__all__ = ["RUNTIME", "RUNTIME_FLOOR", "export"]

_CLEARLY_FASTER = 0.95
RUNTIME = "litert"
# Every operator version that litert-torch and ai-edge-quantizer write is in the runtime of that release.
RUNTIME_FLOOR = "1.0.1"


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
    quantizing = partial(quantize, precision=precision, labels=model.labels)
    how = int8_of(model, quantization) if precision is Precision.INT8 else Int8()
    if precision is Precision.INT8:
        quantizing = partial(quantizing, dataset=dataset.artifact.path, integer_tensors=options.integer_tensors)

    change_notes: list[str] = []

    def make(way: Way) -> Artifact:
        if precision is Precision.FLOAT32:
            return base
        selective = how.model_copy(update={"noisy_layers": way.layers})
        change = partial(quantizing, float_values=sorted(way.float_values), layers_only=way.layers_only, how=selective)
        artifact, change_notes[:] = _quantized(model, base, store, change)
        return artifact

    done = converted(model, dataset, precision, lambda float_values: make(Way(float_values)))
    if precision is Precision.INT8:
        first = done.artifact
        done = with_layers_only(
            done,
            model,
            dataset,
            precision,
            lambda float_values: make(Way(float_values, layers_only=True)),
            below_db=AIM_DB,
        )
        # The artifact is the same one where layers alone were no better.
        only = done.artifact.digest != first.digest
        done = with_noisy_layers_float(done, model, dataset, make, float_bytes=base.size_bytes, is_layers_only=only)
        refuse_noise(done, model)
    return Exported(
        artifact=done.artifact,
        precision=precision,
        inputs=done.declared.inputs,
        outputs=done.declared.outputs,
        notes=(*notes, *change_notes, *done.declared.notes, *done.notes),
        runtime=RUNTIME,
        runtime_floor=RUNTIME_FLOOR,
        float_layers=done.float_layers,
        tolerance=done.declared.tolerance,
    )


def _fastest_float32(model: ImportedModel, dataset: Dataset, store: Store) -> tuple[Artifact, tuple[str, ...]]:
    """By way of torch; or, for an unmodified Keras source, by TensorFlow's own converter where that runs faster.

    Raises:
        UnsupportedError: neither way gives a file that answers as the source.
    """
    if not is_tensorflow(model):
        return _float32(model, store), ()
    artifacts: dict[str, Artifact] = {}
    refusals: dict[str, str] = {}
    # Both are made where both can be: only a race tells which is faster.
    for way, make in (("torch", _float32), ("tensorflow", _by_tensorflow)):
        if way == "torch" and model.graph is None:
            refusals[way] = str(model.graph_refusal)
            continue
        try:
            artifacts[way] = make(model, store)
        except (ConversionError, UnsupportedError) as e:
            refusals[way] = str(e)
    way, reason = _decided(model, dataset, store, artifacts, refusals)
    return artifacts[way], (reason,)


def _decided(
    model: ImportedModel, dataset: Dataset, store: Store, artifacts: dict[str, Artifact], refusals: dict[str, str]
) -> tuple[str, str]:
    """The way whose file is kept, and why. Times decide once: a repeated export must give the same file."""
    note = store.root / "exports" / f"race-{'-'.join(artifact.digest[:16] for artifact in artifacts.values())}.json"
    if len(artifacts) > 1 and note.exists():
        way, reason = json.loads(note.read_text())
        return way, reason
    # A file that answers otherwise than its model does not race, however fast it is.
    for way, artifact in artifacts.items():
        try:
            checked(model, artifact, dataset, Precision.FLOAT32)
        except (ConversionError, UnsupportedError) as e:
            refusals[way] = str(e)
    match [way for way in artifacts if way not in refusals]:
        case []:
            raise UnsupportedError(
                f"{model.name} has no path to android: {refusals['torch']}; nor by TensorFlow's own converter: "
                f"{refusals['tensorflow']}"
            )
        case ["torch"]:
            return "torch", f"TensorFlow's own converter was not used: {refusals['tensorflow']}"
        case ["tensorflow"]:
            return "tensorflow", f"made by TensorFlow's own converter of the source: {refusals['torch']}"
    racing = partial(race, [artifacts[way].path for way in ("torch", "tensorflow")])
    times = run_in_child(racing, returns=list[float], what=f"timing two forms of {model.name}").value
    by_torch_ms, by_tensorflow_ms = times
    figures = (
        f"{by_tensorflow_ms:.3f} ms by TensorFlow's converter, {by_torch_ms:.3f} ms by way of torch, on this machine"
    )
    faster = by_tensorflow_ms < _CLEARLY_FASTER * by_torch_ms
    decided = "tensorflow" if faster else "torch", f"kept the {'former' if faster else 'latter'}: {figures}"
    replace_file(note, json.dumps(decided).encode())
    return decided


def _by_tensorflow(model: ImportedModel, store: Store) -> Artifact:
    def write(path: Path) -> None:
        job = partial(convert_by_tensorflow, source_of(model), path=path, count=len(model.inputs))
        environment = environment_of(model)
        convert_in_child(job, what=f"converting {model.name} by TensorFlow", environment=environment)
        _describe(model, path)

    key = ("tensorflow lite float32", model.source.digest, *_described(model))
    return reuse(store, key, write, name=f"{model.name}.tflite", form=Format.TFLITE, parent=model.source.digest)


def _float32(model: ImportedModel, store: Store) -> Artifact:
    graph = graph_of(model, "android")

    def write(path: Path) -> None:
        job = partial(convert, graph=graph, inputs=model.inputs, path=path)
        convert_in_child(job, what=f"converting {model.name} to LiteRT")
        _describe(model, path)

    parent = model.graph.digest if model.graph else None
    key = ("litert float32", parent, *_described(model))
    return reuse(store, key, write, name=f"{model.name}.tflite", form=Format.TFLITE, parent=parent)


def _describe(model: ImportedModel, path: Path) -> None:
    """In a child of its own, since the converter's memory does not come back."""
    job = partial(describe, path=path, description=_description(model), labels=model.labels)
    convert_in_child(job, what=f"describing {model.name}'s .tflite")


def _described(model: ImportedModel) -> tuple[object, ...]:
    """What of a model stands in its file besides the network."""
    tensors = [dataclasses.astuple(spec) for spec in (*model.inputs, *model.outputs)]
    return tensors, _description(model).model_dump(), model.labels


def _quantized(
    model: ImportedModel, base: Artifact, store: Store, change: "partial[list[str]]"
) -> tuple[Artifact, list[str]]:
    with store.workspace() as folder:
        path = folder / f"{model.name}.tflite"
        job = partial(change, source=base.path, name=model.name, path=path)
        notes = convert_in_child(job, returns=list[str], what=f"quantizing {model.name} for LiteRT").value
        return store.put(path, Format.TFLITE, parent=base.digest), notes


def _description(model: ImportedModel) -> Description:
    classes = len(model.labels)
    # Labels are bound to one output: the first with a score for each class on its last axis.
    labelled = [s.name for s in model.outputs if classes and s.shape[-1:] == (classes,) and s.dtype.startswith("float")]
    return Description(
        name=model.name,
        description=f"{model.task.value}{f', {classes} classes' if classes else ''}",
        version=model.source.digest[:12],
        author="Converted by Edgewright",
        mean=model.preprocessing.mean,
        scale=model.preprocessing.scale,
        inputs=tuple(spec.name for spec in model.inputs),
        outputs=tuple(spec.name for spec in model.outputs),
        labelled=labelled[0] if labelled else None,
    )

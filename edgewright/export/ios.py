"""iOS: Core ML's `.mlpackage` (ML program), by coremltools from the torch graph, or from a Keras source itself."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import deferred
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.int8 import Int8, int8_of
from edgewright.export.kept_float import Converted, Kept, converted
from edgewright.export.noisy_layers import Way, is_noisy, refuse_noise, with_noisy_layers_float
from edgewright.export.pixels import refuse_other_than_pixels
from edgewright.export.refusal import graph_of, unsupported_precision
from edgewright.export.reuse import reuse
from edgewright.export.tensorflow_source import environment_of, is_tensorflow, source_of
from edgewright.profile import ExportOptions
from edgewright.recipe import Quantize
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import TensorSpec

if TYPE_CHECKING:
    from edgewright.export.coreml import convert, palettize, quantize
    from edgewright.export.coreml_tensorflow import convert as convert_by_tensorflow
else:
    convert = deferred("edgewright.export.coreml:convert")
    palettize = deferred("edgewright.export.coreml:palettize")
    quantize = deferred("edgewright.export.coreml:quantize")
    convert_by_tensorflow = deferred("edgewright.export.coreml_tensorflow:convert")

__all__ = ["RUNTIME", "RUNTIME_FLOOR", "export"]

RUNTIME = "coreml"
_OF_WEIGHTS = {Precision.INT8, Precision.INT4}
RUNTIME_FLOOR = "16.0"  # iOS 16: the oldest with compressed weights decoded as constexpr operators


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
    channel, int4 as indices into 16 values of each tensor; activations stay float16, or float32 where half precision
    loses the answers whatever is kept, which a note says. Inputs and outputs are float32 at every precision.
    """
    if precision is Precision.DYNAMIC_INT8:
        raise unsupported_precision(model.name, precision, "Core ML's int8 is of weights only already: use int8")
    if options.image_inputs:
        refuse_other_than_pixels(model, dataset)
    compute = Precision.FLOAT32 if precision is Precision.FLOAT32 else Precision.FLOAT16
    how = int8_of(model, quantization) if precision is Precision.INT8 else Int8()
    by_tensorflow, notes = _way(model, dataset, store, options)

    def computed(float_values: Kept, compute: Precision = compute) -> Artifact:
        return _converted(model, compute, store, options, float_values, by_tensorflow=by_tensorflow)

    def make(way: Way, compute: Precision = compute) -> Artifact:
        base = computed(way.float_values, compute)
        if precision is Precision.INT8:
            # Activations stay half precision, so there is no range to calibrate.
            selective = how.model_copy(update={"noisy_layers": way.layers})
            return _smaller(model, base, store, partial(quantize, how=selective, float_values=sorted(way.float_values)))
        if precision is Precision.INT4:
            return _smaller(model, base, store, partial(palettize, float_values=sorted(way.float_values)))
        return base

    done = converted(model, dataset, precision, lambda float_values: make(Way(float_values)))
    # The noise may be half precision's alone, as behind a BatchNorm of variance 1e-10.
    if precision in _OF_WEIGHTS and is_noisy(done):
        done, compute = _over_half(done, model, dataset, precision, computed, make)
    if precision is Precision.INT8:
        plain, again = computed(done.float_values, compute), partial(make, compute=compute)
        done = with_noisy_layers_float(done, model, dataset, again, float_bytes=plain.size_bytes, weights_only=True)
        refuse_noise(done, model)
    return Exported(
        artifact=done.artifact,
        precision=precision,
        # A package declares an image without axes or dtype: those of the source are told.
        inputs=tuple(_of_one_row(s) for s in model.inputs) if options.image_inputs else done.declared.inputs,
        outputs=_outputs(model, done.declared.outputs),
        notes=(*notes, *done.declared.notes, *done.notes, *_told(model, options)),
        runtime=RUNTIME,
        runtime_floor=RUNTIME_FLOOR,
        float_layers=done.float_layers,
        tolerance=done.declared.tolerance,
    )


def _over_half(
    done: Converted,
    model: ImportedModel,
    dataset: Dataset,
    precision: Precision,
    computed: Callable[[Kept], Artifact],
    make: Callable[..., Artifact],
) -> tuple[Converted, Precision]:
    """Weights in fewer bits over what half precision itself must keep in float32, if there is any; what it computes in.

    Where half precision disagrees whatever is kept, as beyond its range in most layers, all activations are float32;
    where that does not help either, the file stays as it is: fewer bits are judged by themselves.
    """
    half, single = Precision.FLOAT16, Precision.FLOAT32
    try:
        plain = converted(model, dataset, half, computed)
    except ConversionError as e:
        conversion = converted(model, dataset, precision, lambda float_values: make(Way(float_values), single))
        if conversion.is_in_vain:
            return done, half
        return dataclasses.replace(
            conversion, notes=(f"activations are float32, since float16 fails: {e}", *conversion.notes)
        ), single
    if not plain.float_values:
        return done, half
    conversion = converted(model, dataset, precision, lambda float_values: make(Way(float_values | plain.float_values)))
    return dataclasses.replace(
        conversion,
        float_layers=(*plain.float_layers, *conversion.float_layers),
        notes=(*plain.notes, *conversion.notes),
        float_values=conversion.float_values | plain.float_values,
    ), half


def _outputs(model: ImportedModel, declared: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The source's outputs as the file declares them; a classifier's scores, a dictionary there, as their tensor."""
    known = {spec.name: spec for spec in declared}
    return tuple(known.get(spec.name) or _of_one_row(spec) for spec in model.outputs)


def _of_one_row(spec: TensorSpec) -> TensorSpec:
    return dataclasses.replace(spec, shape=(1, *spec.shape[1:]))


def _told(model: ImportedModel, options: ExportOptions) -> list[str]:
    notes = []
    if options.image_inputs:
        notes.append("inputs are images: an app gives 8-bit pixels, normalization stands in the file")
    if options.class_labels:
        given = f"a classifier: an app gets the class and the score of each of {len(model.labels)} labels"
        notes.append(given if model.labels else "class_labels has no effect: the model has no class labels")
    return notes


def _way(model: ImportedModel, dataset: Dataset, store: Store, options: ExportOptions) -> tuple[bool, tuple[str, ...]]:
    """Whether by TensorFlow: for an unmodified Keras source whose graph is refused, by coremltools from TensorFlow.

    float32 decides: what is lost in fewer bits is no fault of the way.
    """
    if not is_tensorflow(model):
        return False, ()
    refusal = str(model.graph_refusal)
    exact = Precision.FLOAT32
    if model.graph is not None:
        try:
            converted(
                model, dataset, exact, lambda float_values: _converted(model, exact, store, options, float_values)
            )
        except (ConversionError, UnsupportedError) as e:
            refusal = str(e)
        else:
            return False, ()
    try:
        converted(
            model,
            dataset,
            exact,
            lambda float_values: _converted(model, exact, store, options, float_values, by_tensorflow=True),
        )
    except (ConversionError, UnsupportedError) as e:
        raise UnsupportedError(f"{model.name} has no path to ios: {refusal}; nor by way of TensorFlow: {e}") from e
    return True, (f"made by coremltools from TensorFlow: {refusal}",)


def _converted(
    model: ImportedModel,
    compute: Precision,
    store: Store,
    options: ExportOptions,
    float_values: Kept,
    *,
    by_tensorflow: bool = False,
) -> Artifact:
    graph = None if by_tensorflow else graph_of(model, "ios")
    description = _description(model, options)
    pixels = {"scale": model.preprocessing.scale, "mean": model.preprocessing.mean} if options.image_inputs else None
    labels = list(model.labels) if options.class_labels and model.labels else None

    def write(path: Path) -> None:
        source = partial(convert, graph=graph) if graph else partial(convert_by_tensorflow, source=source_of(model))
        job = partial(
            source,
            inputs=model.inputs,
            outputs=model.outputs,
            compute=compute,
            description=description,
            pixels=pixels,
            labels=labels,
            float_values=sorted(float_values),
            path=path,
        )
        environment = environment_of(model) if graph is None else None
        convert_in_child(job, what=f"converting {model.name} to Core ML", environment=environment)

    # The file that is converted: the TensorFlow way starts from the source, the other from its graph.
    parent = model.graph.digest if model.graph and not by_tensorflow else model.source.digest
    tensors = [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)]
    key = ("coreml", compute.value, parent, tensors, description, pixels, labels, sorted(float_values))
    return reuse(store, key, write, name=f"{model.name}.mlpackage", form=Format.MLPACKAGE, parent=parent)


def _smaller(model: ImportedModel, base: Artifact, store: Store, change: Callable[..., None]) -> Artifact:
    with store.workspace() as folder:
        path = folder / f"{model.name}.mlpackage"
        job = partial(change, source=base.path, name=model.name, path=path)
        convert_in_child(job, what=f"quantizing {model.name} for Core ML")
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
            # Core ML gives a classifier's scores as a dictionary; under this name they are found as a tensor.
            texts["scores"] = scores[0]
    if options.image_inputs:
        texts |= {"pixel_scale": repr(model.preprocessing.scale), "pixel_mean": repr(model.preprocessing.mean)}
    return texts

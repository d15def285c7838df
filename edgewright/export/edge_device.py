"""Edge devices: ONNX Runtime's `.onnx`, ONNX to ONNX where the graph is the untouched import."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import deferred
from edgewright.errors import UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.declared import checked
from edgewright.export.int8 import Int8, int8_of
from edgewright.export.kept_float import converted, with_layers_only
from edgewright.export.noisy_layers import Way, refuse_noise, with_noisy_layers_float
from edgewright.export.reuse import reuse
from edgewright.profile import ExportOptions, InstructionSet, weight_bits
from edgewright.recipe import Quantize
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import Processor

if TYPE_CHECKING:
    from edgewright.export.onnx_int8 import calibrate, prepare, quantize
    from edgewright.export.onnx_runtime import convert, optimize, quantize_dynamically, to_float16, to_int4, to_ort
else:
    calibrate = deferred("edgewright.export.onnx_int8:calibrate")
    prepare = deferred("edgewright.export.onnx_int8:prepare")
    quantize = deferred("edgewright.export.onnx_int8:quantize")
    convert = deferred("edgewright.export.onnx_runtime:convert")
    optimize = deferred("edgewright.export.onnx_runtime:optimize")
    quantize_dynamically = deferred("edgewright.export.onnx_runtime:quantize_dynamically")
    to_float16 = deferred("edgewright.export.onnx_runtime:to_float16")
    to_int4 = deferred("edgewright.export.onnx_runtime:to_int4")
    to_ort = deferred("edgewright.export.onnx_runtime:to_ort")

__all__ = ["RUNTIME", "RUNTIME_FLOOR", "export"]

_CHANGES = {Precision.FLOAT16: to_float16, Precision.DYNAMIC_INT8: quantize_dynamically, Precision.INT4: to_int4}
RUNTIME = "onnxruntime"
RUNTIME_FLOOR = "1.14"


def export(
    model: ImportedModel,
    dataset: Dataset,
    precision: Precision,
    store: Store,
    *,
    instruction_set: InstructionSet,
    dot_products: bool,
    options: ExportOptions,
    quantization: Quantize,
) -> Exported:
    """An `.onnx` with a free batch axis, optimized offline by the passes that hold for every processor.

    int8 weights have as many bits as `edgewright.profile.weight_bits` says.
    """
    base, change_notes = _float32(model, store), list[str]()
    how = int8_of(model, quantization) if precision is Precision.INT8 else Int8()
    bits = weight_bits(instruction_set, dot_products, options)

    def changing(way: Way, scratch: Path) -> Callable[[Path, Path], None]:
        def change(source: Path, path: Path) -> None:
            if precision is Precision.INT8:
                quantizing = partial(
                    quantize,
                    instruction_set=instruction_set,
                    weight_bits=bits,
                    float_values=sorted(way.float_values),
                    layers_only=way.layers_only,
                    how=how.model_copy(update={"noisy_layers": way.layers}),
                )
                _quantize(model.name, source, path, dataset.artifact.path, how, quantizing, scratch)
            else:
                plain = sorted(way.float_values)
                job = partial(_CHANGES[precision], source=source, name=model.name, path=path, float_values=plain)
                convert_in_child(job, what=f"making {model.name}'s ONNX smaller")

        return change

    with store.workspace() as scratch:

        def make(way: Way) -> Artifact:
            if precision is Precision.FLOAT32:
                return base
            onnx_artifact, change_notes[:] = _smaller(model, base, store, changing(way, scratch))
            return onnx_artifact

        done = converted(model, dataset, precision, lambda float_values: make(Way(float_values)))
        if precision is Precision.INT8:
            first = done.artifact
            done = with_layers_only(
                done, model, dataset, precision, lambda float_values: make(Way(float_values, layers_only=True))
            )
            done = with_noisy_layers_float(
                done,
                model,
                dataset,
                make,
                float_bytes=base.size_bytes,
                is_layers_only=done.artifact.digest != first.digest,
            )
            refuse_noise(done, model)
    artifact, declared, needed = done.artifact, done.declared, ""
    notes = (*declared.notes, *change_notes, *done.notes)
    if options.ort_format:
        artifact, needed = _ort(artifact, model.name, store, instruction_set)
        # Another file than the one that was compared: fused once more, and in another format.
        notes = (*notes, *checked(model, artifact, dataset, precision).notes)
        notes = (*notes, f"operators for a reduced build of ONNX Runtime: {' '.join(needed.split())}")
    largest = declared.largest_pair_sum
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=declared.inputs,
        outputs=declared.outputs,
        notes=notes,
        runtime=RUNTIME,
        runtime_floor=declared.runtime_floor or RUNTIME_FLOOR,
        required_operators=needed,
        float_layers=done.float_layers,
        made_for=None if largest is None else Processor(instruction_set, dot_products, largest),
        tolerance=declared.tolerance,
    )


def _smaller(
    model: ImportedModel, base: Artifact, store: Store, change: Callable[[Path, Path], None]
) -> tuple[Artifact, list[str]]:
    """The changed file; of the torch graph where the source's own operators (``ai.onnx.ml``) take no fewer bits."""
    try:
        return _made_of(base, model.name, store, change), []
    except UnsupportedError:
        if model.graph is None or base.parent == model.graph.digest:
            raise
    by_graph = _float32(model, store, by_graph=True)
    artifact = _made_of(by_graph, model.name, store, change)
    return artifact, ["made by way of the torch graph: the source's own ONNX operators take no fewer bits"]


def _float32(model: ImportedModel, store: Store, *, by_graph: bool = False) -> Artifact:
    """The optimized float32 file: ONNX to ONNX where it came in so and is unchanged, unless asked for the graph."""
    start = model.graph if by_graph and model.graph is not None else model.inside
    if start is None:
        raise UnsupportedError(
            f"{model.name} has no path to edge_device: {model.graph_refusal}; android and ios take the source itself"
        )

    def write(path: Path) -> None:
        source = start.path if start.format is Format.ONNX else path.with_suffix(".raw.onnx")
        if start.format is not Format.ONNX:
            names = [spec.name for spec in model.outputs]
            job = partial(convert, graph=start.path, inputs=model.inputs, outputs=names, path=source)
            convert_in_child(job, what=f"converting {model.name} to ONNX")
        convert_in_child(partial(optimize, source=source, path=path), what=f"optimizing {model.name}")

    key = ("onnxruntime float32", start.digest, [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)])
    return reuse(store, key, write, name=f"{model.name}.onnx", form=Format.ONNX, parent=start.digest)


def _made_of(base: Artifact, name: str, store: Store, change: Callable[[Path, Path], None]) -> Artifact:
    with store.workspace() as folder:
        path = folder / f"{name}.onnx"
        change(base.path, path)
        return store.put(path, Format.ONNX, parent=base.digest)


def _quantize(
    name: str, source: Path, path: Path, rows: Path, how: Int8, quantizing: "partial[None]", scratch: Path
) -> None:
    """Static int8, each step in a child process of its own: see `edgewright.export.onnx_int8`.

    What does not depend on which operators stay float is kept in ``scratch`` for the next file of the same source.
    """
    what = f"quantizing {name} for ONNX Runtime"
    cache, beside = scratch / source.parent.name, path.parent / "prepared"  # a step writes only beside what it reads
    if not cache.exists():
        beside.mkdir()
        prepared, ranges = beside / "model.onnx", beside / "ranges.json"
        convert_in_child(partial(prepare, source=source, name=name, path=prepared), what=what)
        convert_in_child(partial(calibrate, source=prepared, dataset=rows, how=how, path=ranges), what=what)
        # Made only when both files are there: a step that failed leaves no half of a cache.
        cache.mkdir()
        for file in (prepared, ranges):
            shutil.copyfile(file, cache / file.name)
    else:
        shutil.copytree(cache, beside)
    prepared, ranges = beside / "model.onnx", beside / "ranges.json"
    convert_in_child(partial(quantizing, source=prepared, name=name, ranges=ranges, rows=rows, path=path), what=what)


def _ort(base: Artifact, name: str, store: Store, instruction_set: InstructionSet) -> tuple[Artifact, str]:
    """The file, and the operators that it needs."""
    with store.workspace() as folder:
        path = folder / f"{name}.ort"
        job = partial(to_ort, source=base.path, instruction_set=instruction_set, path=path)
        needed = convert_in_child(job, returns=str, what=f"writing {name} in the .ort format").value
        return store.put(path, Format.ONNX, parent=base.digest), needed

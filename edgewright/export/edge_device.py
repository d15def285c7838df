"""Edge devices: ONNX Runtime's `.onnx`, ONNX to ONNX where the graph is the untouched import."""

import dataclasses
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.errors import UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.declared import checked
from edgewright.export.kept_float import Kept, converted
from edgewright.export.refusal import quantization_arguments
from edgewright.export.reuse import reuse
from edgewright.profile import ExportOptions, InstructionSet, weight_bits
from edgewright.recipe import Quantize
from edgewright.store import Store
from edgewright_runtime.manifest import Processor

__all__ = ["export"]

_CHILD = "edgewright.export.onnx_runtime"
_INT8 = "edgewright.export.onnx_int8"
_CHANGES = {Precision.FLOAT16: "to_float16", Precision.DYNAMIC_INT8: "quantize_dynamically", Precision.INT4: "to_int4"}
_RUNTIME = "onnxruntime"
_RUNTIME_FLOOR = "1.14"


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
    base, said = _float32(model, store), list[str]()
    arguments: dict[str, Any] = {}
    if precision is Precision.INT8:
        bits = weight_bits(instruction_set, dot_products, options)
        arguments = {"instruction_set": instruction_set, "weight_bits": bits}
        arguments |= quantization_arguments(model, quantization)

    def make(kept: Kept) -> Artifact:
        if precision is Precision.FLOAT32:
            return base
        made, said[:] = _smaller(model, base, store, precision, dataset, {**arguments, "kept": sorted(kept)})
        return made

    done = converted(model, dataset, precision, make)
    artifact, declared, needed = done.artifact, done.declared, ""
    notes = (*declared.notes, *said, *done.notes)
    if options.ort_format:
        artifact, needed = _ort(artifact, model.name, store, instruction_set)
        notes = (*notes, *checked(model, artifact, dataset, precision).notes)
        notes = (*notes, f"operators for a reduced build of ONNX Runtime: {' '.join(needed.split())}")
    largest = declared.largest_pair_sum
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=declared.inputs,
        outputs=declared.outputs,
        notes=notes,
        runtime=_RUNTIME,
        runtime_floor=declared.runtime_floor or _RUNTIME_FLOOR,
        required_operators=needed,
        float_layers=done.float_layers,
        made_for=None if largest is None else Processor(instruction_set, dot_products, largest),
    )


def _smaller(
    model: ImportedModel,
    base: Artifact,
    store: Store,
    precision: Precision,
    dataset: Dataset,
    arguments: dict[str, Any],
) -> tuple[Artifact, list[str]]:
    """The changed file; of the torch graph where the source's own operators (``ai.onnx.ml``) take no fewer bits."""
    try:
        return _made_of(base, model.name, store, precision, dataset, arguments), []
    except UnsupportedError:
        if model.graph is None or base.parent == model.graph.digest:
            raise
    by_graph = _float32(model, store, by_graph=True)
    made = _made_of(by_graph, model.name, store, precision, dataset, arguments)
    return made, ["made by way of the torch graph: the source's own ONNX operators take no fewer bits"]


def _float32(model: ImportedModel, store: Store, *, by_graph: bool = False) -> Artifact:
    """The optimized float32 file: ONNX to ONNX where it came in so and is unchanged, unless asked for the graph."""
    start = model.graph if by_graph and model.graph is not None else model.inside
    if start is None:
        raise UnsupportedError(
            f"{model.name} has no path to edge_device: {model.graph_refusal}; android and ios take the source itself"
        )

    def convert(path: Path) -> None:
        source = start.path if start.format is Format.ONNX else path.with_suffix(".raw.onnx")
        if start.format is not Format.ONNX:
            arguments = {
                "graph": str(start.path),
                "inputs": [dataclasses.asdict(spec) for spec in model.inputs],
                "outputs": [spec.name for spec in model.outputs],
                "path": str(source),
            }
            convert_in_child(f"{_CHILD}:convert", arguments, what=f"converting {model.name} to ONNX")
        files = {"source": str(source), "path": str(path)}
        convert_in_child(f"{_CHILD}:optimize", files, what=f"optimizing {model.name}")

    key = ("onnxruntime float32", start.digest, [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)])
    return reuse(store, key, convert, name=f"{model.name}.onnx", form=Format.ONNX, parent=start.digest)


def _made_of(
    base: Artifact, name: str, store: Store, precision: Precision, dataset: Dataset, arguments: dict[str, Any]
) -> Artifact:
    with store.workspace() as folder:
        path = folder / f"{name}.onnx"
        given = {"source": str(base.path), "name": name, "path": str(path)}
        if precision is Precision.INT8:
            _quantize(given, dataset, arguments)
        else:
            given_kept = {**given, "kept": arguments["kept"]}
            convert_in_child(f"{_CHILD}:{_CHANGES[precision]}", given_kept, what=f"making {name}'s ONNX smaller")
        return store.put(path, Format.ONNX, parent=base.digest)


def _quantize(given: dict[str, str], dataset: Dataset, arguments: dict[str, Any]) -> None:
    """Static int8, each step in a child process of its own: see `edgewright.export.onnx_int8`."""
    source, path, what = given["source"], Path(given["path"]), f"quantizing {given['name']} for ONNX Runtime"
    prepared, ranges = path.with_suffix(".prepared.onnx"), path.with_suffix(".ranges.json")
    convert_in_child(f"{_INT8}:prepare", {**given, "source": source, "path": str(prepared)}, what=what)
    how = {key: arguments[key] for key in ("calibration", "percentile")}
    rows = str(dataset.artifact.path)
    convert_in_child(
        f"{_INT8}:calibrate", {"source": str(prepared), "dataset": rows, "path": str(ranges), **how}, what=what
    )
    chosen = {key: arguments[key] for key in ("instruction_set", "weight_bits", "float_layers", "graph", "kept")}
    files = {"source": str(prepared), "ranges": str(ranges), "rows": rows}
    convert_in_child(f"{_INT8}:quantize", {**given, **files, **chosen}, what=what)


def _ort(base: Artifact, name: str, store: Store, instruction_set: str) -> tuple[Artifact, str]:
    """The file, and the operators that it needs."""
    with store.workspace() as folder:
        path = folder / f"{name}.ort"
        given = {"source": str(base.path), "instruction_set": instruction_set, "path": str(path)}
        needed = convert_in_child(f"{_CHILD}:to_ort", given, what=f"writing {name} in the .ort format").value
        return store.put(path, Format.ONNX, parent=base.digest), needed

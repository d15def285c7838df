"""Edge devices: ONNX Runtime's `.onnx`, ONNX to ONNX where the graph is the untouched import."""

import dataclasses
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.errors import UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.declared import checked
from edgewright.export.refusal import quantization_arguments
from edgewright.export.reuse import reuse
from edgewright.profile import ExportOptions
from edgewright.recipe import Quantize
from edgewright.store import Store

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
    instruction_set: str,
    options: ExportOptions,
    quantization: Quantize,
) -> Exported:
    """An `.onnx` with a free batch axis, optimized offline by the passes that hold for every processor."""
    artifact, said = _float32(model, store), list[str]()
    if precision is not Precision.FLOAT32:
        arguments: dict[str, Any] = {}
        if precision is Precision.INT8:
            arguments = {"instruction_set": instruction_set, **quantization_arguments(model, quantization)}
        artifact, said = _smaller(model, artifact, store, precision, dataset, arguments)
    declared = checked(model, artifact, dataset, precision)
    notes, needed = (*declared.notes, *said), ""
    if options.ort_format:
        artifact, needed = _ort(artifact, model.name, store, instruction_set)
        notes = (*notes, *checked(model, artifact, dataset, precision).notes)
        notes = (*notes, f"operators for a reduced build of ONNX Runtime: {' '.join(needed.split())}")
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=declared.inputs,
        outputs=declared.outputs,
        notes=notes,
        runtime=_RUNTIME,
        runtime_floor=declared.runtime_floor or _RUNTIME_FLOOR,
        required_operators=needed,
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
    """The optimized float32 file: ONNX to ONNX where the graph is the untouched import, unless asked for the graph."""
    untouched = model.graph is None or (model.graph.parent == model.onnx.digest and not by_graph)
    start = model.onnx if untouched or model.graph is None else model.graph

    def convert(path: Path) -> None:
        source = model.onnx.path if untouched else path.with_suffix(".raw.onnx")
        if not untouched:
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
            convert_in_child(f"{_CHILD}:{_CHANGES[precision]}", given, what=f"making {name}'s ONNX smaller")
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
    kept = {key: arguments[key] for key in ("instruction_set", "float_layers", "graph")}
    convert_in_child(f"{_INT8}:quantize", {**given, "source": str(prepared), "ranges": str(ranges), **kept}, what=what)


def _ort(base: Artifact, name: str, store: Store, instruction_set: str) -> tuple[Artifact, str]:
    """The file, and the operators that it needs."""
    with store.workspace() as folder:
        path = folder / f"{name}.ort"
        given = {"source": str(base.path), "instruction_set": instruction_set, "path": str(path)}
        needed = convert_in_child(f"{_CHILD}:to_ort", given, what=f"writing {name} in the .ort format").value
        return store.put(path, Format.ONNX, parent=base.digest), needed

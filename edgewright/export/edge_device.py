"""Edge devices: ONNX Runtime's `.onnx`, ONNX to ONNX where the graph is the untouched import."""

import dataclasses
from pathlib import Path

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import run_in_child
from edgewright.export.declared import checked
from edgewright.export.reuse import reuse
from edgewright.store import Store

__all__ = ["export"]

_CHILD = "edgewright.export.onnx_runtime"
_RUNTIME = "onnxruntime"
_RUNTIME_FLOOR = "1.14"


def export(
    model: ImportedModel, dataset: Dataset, precision: Precision, store: Store, *, instruction_set: str
) -> Exported:
    """An `.onnx` with a free batch axis, optimized offline by the passes that hold for every processor."""
    base = _float32(model, store)
    artifact = base
    if precision is not Precision.FLOAT32:
        artifact = _quantized(model, base, dataset, precision, store=store, instruction_set=instruction_set)
    declared = checked(model, artifact, dataset, precision)
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=declared.inputs,
        outputs=declared.outputs,
        notes=declared.notes,
        runtime=_RUNTIME,
        runtime_floor=declared.runtime_floor or _RUNTIME_FLOOR,
    )


def _float32(model: ImportedModel, store: Store) -> Artifact:
    untouched = model.graph is None or model.graph.parent == model.onnx.digest
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
            run_in_child(f"{_CHILD}:convert", arguments, what=f"converting {model.name} to ONNX")
        run_in_child(f"{_CHILD}:optimize", {"source": str(source), "path": str(path)}, what=f"optimizing {model.name}")

    key = ("onnxruntime float32", start.digest, [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)])
    return reuse(store, key, convert, name=f"{model.name}.onnx", form=Format.ONNX, parent=start.digest)


def _quantized(
    model: ImportedModel, base: Artifact, dataset: Dataset, precision: Precision, *, store: Store, instruction_set: str
) -> Artifact:
    with store.workspace() as folder:
        path = folder / f"{model.name}.onnx"
        arguments = {"source": str(base.path), "name": model.name, "path": str(path)}
        if precision is Precision.FLOAT16:
            run_in_child(f"{_CHILD}:to_float16", arguments, what=f"converting {model.name} to float16")
        else:
            arguments |= {"dataset": str(dataset.artifact.path), "instruction_set": instruction_set}
            run_in_child(f"{_CHILD}:quantize", arguments, what=f"quantizing {model.name} for ONNX Runtime")
        return store.put(path, Format.ONNX, parent=base.digest)

"""Android: LiteRT's `.tflite`, by litert-torch from the torch graph and by ai-edge-quantizer from there."""

import dataclasses
from pathlib import Path

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, Precision
from edgewright.child import run_in_child
from edgewright.export.declared import checked
from edgewright.export.refusal import graph_of
from edgewright.export.reuse import reuse
from edgewright.store import Store

__all__ = ["export"]

_CHILD = "edgewright.export.litert"
_RUNTIME = "litert"
# Every operator version that litert-torch and ai-edge-quantizer write is in the runtime of that release.
_RUNTIME_FLOOR = "1.0.1"


def export(model: ImportedModel, dataset: Dataset, precision: Precision, store: Store) -> Exported:
    """A `.tflite` with batch 1; float16 and int8 are made of the float32 file, not converted again."""
    base = _float32(model, store)
    artifact = base if precision is Precision.FLOAT32 else _quantized(model, base, dataset, precision, store)
    declared = checked(model, artifact, dataset, precision)
    return Exported(
        artifact=artifact,
        precision=precision,
        inputs=declared.inputs,
        outputs=declared.outputs,
        notes=declared.notes,
        runtime=_RUNTIME,
        runtime_floor=_RUNTIME_FLOOR,
    )


def _float32(model: ImportedModel, store: Store) -> Artifact:
    graph = graph_of(model, "android")

    def convert(path: Path) -> None:
        arguments = {
            "graph": str(graph),
            "inputs": [dataclasses.asdict(spec) for spec in model.inputs],
            "path": str(path),
        }
        run_in_child(f"{_CHILD}:convert", arguments, what=f"converting {model.name} to LiteRT")
        names = {"inputs": [s.name for s in model.inputs], "outputs": [s.name for s in model.outputs]}
        # In a child of its own, since the converter's memory does not come back.
        run_in_child(f"{_CHILD}:name_tensors", {"path": str(path), **names}, what=f"naming {model.name}'s tensors")

    parent = model.graph.digest if model.graph else None
    key = ("litert float32", parent, [dataclasses.astuple(s) for s in (*model.inputs, *model.outputs)])
    return reuse(store, key, convert, name=f"{model.name}.tflite", form=Format.TFLITE, parent=parent)


def _quantized(model: ImportedModel, base: Artifact, dataset: Dataset, precision: Precision, store: Store) -> Artifact:
    with store.workspace() as folder:
        path = folder / f"{model.name}.tflite"
        arguments = {"source": str(base.path), "name": model.name, "precision": precision.value, "path": str(path)}
        if precision is Precision.INT8:
            arguments["dataset"] = str(dataset.artifact.path)
        run_in_child(f"{_CHILD}:quantize", arguments, what=f"quantizing {model.name} for LiteRT")
        return store.put(path, Format.TFLITE, parent=base.digest)

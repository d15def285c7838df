"""torch.onnx as it is, for edge devices: an exporter that a device profile names ``torch_onnx``."""

from pathlib import Path

import torch

from edgewright.artifact import Dataset, ImportedModel, Precision
from edgewright.errors import UnsupportedError
from edgewright.intake import torch_graph

__all__ = ["export"]


def export(model: ImportedModel, dataset: Dataset, precision: Precision, folder: Path) -> Path:
    """Write the model's graph as ONNX into ``folder``; the path of the file is the answer.

    Raises:
        UnsupportedError: the model has no graph, or another precision than float32 is asked for.
    """
    if model.graph is None or precision is not Precision.FLOAT32:
        raise UnsupportedError(f"torch_onnx writes graphs in float32; {model.name} in {precision} is not one")
    graph = torch_graph.load(model.graph.path)
    rows = tuple(torch.zeros(2, *spec.shape[1:], dtype=getattr(torch, spec.dtype)) for spec in model.inputs)
    program = torch.onnx.export(
        graph,
        rows,
        input_names=[spec.name for spec in model.inputs],
        output_names=[spec.name for spec in model.outputs],
        dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in rows),
        dynamo=True,
        verbose=False,
    )
    program.save(folder / "model.onnx")
    return folder / "model.onnx"

"""A PyTorch program saved by `torch.export.save` (``.pt2``): loaded, answered in eager mode, turned into ONNX.

Runs in a child process: imports torch and onnx.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.intake.onnx_nodes import rename_ends
from edgewright.intake.pt2_guard import inspect_program
from edgewright.intake.source import TensorSource
from edgewright_runtime.manifest import TensorSpec

__all__ = ["TorchSource", "answers", "load_program", "to_onnx"]

_ROWS_AT_ONCE = 256


class TorchSource(TensorSource):
    """A torch.export program over arrays."""

    def __init__(self, path: Path, data: DataSpec, program: Any = None) -> None:
        self.program = load_program(path) if program is None else program
        inputs, outputs = _signature(self.program, path)
        self.inputs = inputs
        super().__init__(inputs, outputs, data)

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """ONNX by torch.onnx.export."""
        model = to_onnx(self.program, name)
        ends = zip([*model.graph.input, *model.graph.output], [*self.inputs, *self.outputs], strict=True)
        rename_ends(model, {entry.name: tensor.name for entry, tensor in ends})
        return model

    def answers(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """The program in eager mode."""
        return self.judged(answers(self.program, self.test_inputs())[0])


def load_program(path: Path) -> Any:
    """The exported program.

    Raises:
        UntrustedModelError: it holds more than tensors and a graph of tensor operators; nothing of it has run.
        InputError: the file is damaged or was written by a newer torch.
    """
    inspect_program(path)
    try:
        return torch.export.load(path)
    except Exception as e:  # torch.export.load has no error type of its own
        raise InputError(f"{path}: torch.export cannot load it: {_first_line(e)}") from e


def to_onnx(program: Any, name: str) -> onnx.ModelProto:
    """ONNX by torch's own exporter; BatchNorm stays a node of its own, since retraining needs it."""
    try:
        exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    except torch.onnx.OnnxExporterError as e:
        raise ConversionError(f"exporting {name} to ONNX: {_first_line(e)}") from e
    if exported is None:
        raise ConversionError(f"exporting {name} to ONNX: torch returned nothing")
    return exported.model_proto


def answers(program: Any, inputs: list[NDArray[Any]]) -> list[NDArray[np.float64]]:
    """What the program itself says, one array for each output; a fixed batch is fed piece by piece."""
    module, rows = program.module(), len(inputs[0])
    step = _batch_size(program)
    named = list(program.call_spec.in_spec.child(1).context or [])  # inputs that were exported by keyword
    found: list[list[NDArray[np.float64]]] = []
    with torch.no_grad():
        for start in range(0, rows, step or _ROWS_AT_ONCE):
            piece = [torch.from_numpy(x[start : start + (step or _ROWS_AT_ONCE)]) for x in inputs]
            short = (step or len(piece[0])) - len(piece[0])
            if short:
                piece = [torch.cat([p, p[-1:].expand(short, *p.shape[1:])]) for p in piece]
            result = module(*piece[: len(piece) - len(named)], **dict(zip(named, piece[-len(named) :], strict=False)))
            results = result if isinstance(result, (tuple, list)) else (result,)
            kept = len(piece[0]) - short
            found.append([r[:kept].double().numpy() for r in results])
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def _batch_size(program: Any) -> int | None:
    """The fixed batch size of the program's first input, None where it is free."""
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            size = node.meta["val"].shape[0]
            return size if isinstance(size, int) else None
    raise UnsupportedError("the program takes no tensor")


def _signature(program: Any, path: Path) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """Inputs and the output; a size that may vary is -1, and only the first may."""
    by_name = {n.name: n for n in program.graph.nodes}
    inputs = tuple(_spec(by_name[n], path) for n in program.graph_signature.user_inputs)
    outputs = [_spec(by_name[n], path) for n in program.graph_signature.user_outputs]
    if len(outputs) != 1:
        raise UnsupportedError(f"{path}: the program returns {len(outputs)} tensors; one is supported")
    return inputs, outputs[0]


def _spec(node: Any, path: Path) -> TensorSpec:
    value = node.meta["val"]
    shape = tuple(s if isinstance(s, int) else -1 for s in value.shape)
    if -1 in shape[1:]:
        raise UnsupportedError(f"{path}: '{node.name}' of shape {shape}: only the first axis may be of a free size")
    return TensorSpec(node.name, shape, str(value.dtype).removeprefix("torch."))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]

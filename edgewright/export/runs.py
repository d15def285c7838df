"""Running a model file of any format on given rows, whole or value by value. Runs in a child process.

Formats: ONNX by ONNX Runtime, a torch graph by torch, `.tflite` by LiteRT, `.mlpackage` by `mil_evaluator`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Format
from edgewright.errors import UnsupportedError

__all__ = ["Arrays", "outputs_of", "trace_of"]

Arrays = dict[str, np.ndarray]


def outputs_of(path: Path, form: Format, rows: Arrays, outputs: list[str]) -> Arrays:
    """The model's outputs for N rows, by name.

    Args:
        path: the model file or folder.
        form: its format.
        rows: {input: (N, ...)} in the order of the model's inputs.
        outputs: the names of the outputs, in the model's order; a torch graph has no names of its own.
    """
    match form:
        case Format.ONNX:
            return _onnx_outputs(path, rows, outputs)
        case Format.TORCH_GRAPH:
            return _torch_outputs(path, rows, outputs)
        case Format.TFLITE:
            return _tflite_outputs(path, rows, outputs)
        case Format.MLPACKAGE:
            from edgewright.export.mil_evaluator import evaluate

            return evaluate(path, rows)
        case _:
            raise UnsupportedError(f"{form} files are not run here")


def trace_of(path: Path, form: Format, row: Arrays) -> Arrays:
    """Every value that one row (1, ...) gives on its way through the model, in the order of computation."""
    match form:
        case Format.ONNX:
            return _onnx_trace(path, row)
        case Format.TORCH_GRAPH:
            return _torch_trace(path, row)
        case Format.TFLITE:
            return _tflite_trace(path, row)
        case Format.MLPACKAGE:
            import torch

            from edgewright.export.mil_evaluator import Evaluator

            values = Evaluator(path).trace({name: torch.from_numpy(array) for name, array in row.items()})
            return {name: value.numpy() for name, value in values.items()}
        case _:
            raise UnsupportedError(f"{form} files are not run here")


def _batches(rows: Arrays, size: int = 1) -> Iterator[Arrays]:
    count = len(next(iter(rows.values())))
    for start in range(0, count, size):
        yield {name: column[start : start + size] for name, column in rows.items()}


def _joined(outputs: list[str], answers: Iterator[Arrays]) -> Arrays:
    given = list(answers)
    return {name: np.concatenate([answer[name] for answer in given]) for name in outputs}


def _onnx_outputs(path: Path, rows: Arrays, outputs: list[str]) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0].shape
    fixed = first[0] if first and isinstance(first[0], int) else 1
    return _joined(outputs, (dict(zip(outputs, session.run(outputs, r), strict=True)) for r in _batches(rows, fixed)))


def _onnx_trace(path: Path, row: Arrays) -> Arrays:
    import onnx
    import onnxruntime

    model = onnx.load(path)
    declared = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in declared)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = zip(names, session.run(names, row), strict=True)
    return {name: value for name, value in given if isinstance(value, np.ndarray)}


def _torch_outputs(path: Path, rows: Arrays, outputs: list[str]) -> Arrays:
    import torch

    from edgewright.intake import torch_graph

    module = torch_graph.load(path).eval()

    def answer(batch: Arrays) -> Arrays:
        with torch.no_grad():
            given = module(*(torch.from_numpy(column) for column in batch.values()))
        values = given if isinstance(given, (tuple, list)) else (given,)
        return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}

    return _joined(outputs, (answer(batch) for batch in _batches(rows)))


def _torch_trace(path: Path, row: Arrays) -> Arrays:
    import torch
    from torch import fx

    from edgewright.intake import torch_graph

    values: Arrays = {}

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and n.op not in {"get_attr", "placeholder"}:
                values[str(n.target) if n.op == "call_module" else n.name] = value.numpy()
            return value

    with torch.no_grad():
        Noting(torch_graph.load(path).eval()).run(*(torch.from_numpy(column) for column in row.values()))
    return values


def _tflite_outputs(path: Path, rows: Arrays, outputs: list[str]) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=2).get_signature_runner()
    # The runner hands out views of the interpreter's own memory, which the next row overwrites.
    answers = ({name: value.copy() for name, value in run(**row).items()} for row in _batches(rows))
    return _joined(outputs, answers)


def _tflite_trace(path: Path, row: Arrays) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path),
        experimental_preserve_all_tensors=True,
        # A delegate computes groups of operators at once and leaves the tensors between them unset.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.get_signature_runner()(**row)
    written = {int(i) for operator in interpreter._get_ops_details() for i in operator["outputs"]}
    return {
        d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_tensor_details() if d["index"] in written
    }

"""Running a model file of any format on given rows. Runs in a child process.

Formats: ONNX by ONNX Runtime, a torch graph by torch, `.tflite` by LiteRT, `.mlpackage` by `mil_evaluator`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Format
from edgewright.errors import ConversionError, EdgewrightError, UnsupportedError
from edgewright.export.calibration import integers_in_width
from edgewright.export.refusal import other_ways
from edgewright.failures import one_line
from edgewright_runtime.bundle.processor import saturates

__all__ = ["Arrays", "outputs_of", "rounding_of"]

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


def rounding_of(path: Path, form: Format, batches: Sequence[Arrays], outputs: list[str]) -> dict[str, float]:
    """Of each output, how far rounding carries the model's own float32 answers (see `own_rounding`).

    Empty where that is not known: the source is known by its answers alone, or ONNX has no graph.
    """
    from edgewright.intake.own_rounding import own_rounding

    graph = _graph_of(path, form)
    if graph is None:
        return {}
    import torch

    given = [[torch.from_numpy(np.ascontiguousarray(column)) for column in rows.values()] for rows in batches]
    # Not strict: nothing is given back for a graph whose rounding cannot be measured.
    return dict(zip(outputs, own_rounding(graph, given) or [], strict=False))


def _graph_of(path: Path, form: Format) -> Any:
    """The torch graph of a model; None where there is none."""
    if form is Format.TORCH_GRAPH:
        from edgewright.intake import torch_graph

        return torch_graph.load(path).eval()
    if form is not Format.ONNX:
        return None
    import onnx

    from edgewright.intake.onnx_graph import import_onnx

    try:
        return import_onnx(onnx.load(path))
    except EdgewrightError:
        return None


def _batches(rows: Arrays, size: int = 1) -> Iterator[Arrays]:
    count = len(next(iter(rows.values())))
    for start in range(0, count, size):
        yield {name: column[start : start + size] for name, column in rows.items()}


def _joined(outputs: list[str], answers: Iterator[Arrays]) -> Arrays:
    given = list(answers)
    return {name: np.concatenate([answer[name] for answer in given]) for name in outputs}


def _onnx_outputs(path: Path, rows: Arrays, outputs: list[str]) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if saturates():  # what the file says, not what the kernels here make of it
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0].shape
    # A free axis is a name or None. Row by row: what a batch shares, as a scale of dynamic int8, would be of all rows.
    fixed = first[0] if first and isinstance(first[0], int) else 1

    def answer(batch: Arrays) -> Arrays:
        count = len(next(iter(batch.values())))
        # A last piece that is shorter is filled up with its last row; what that gives is dropped.
        full = {name: np.concatenate([c, *[c[-1:]] * (fixed - count)]) for name, c in batch.items()}
        values = session.run(outputs, full)
        return {name: v[: len(v) * count // fixed] for name, v in zip(outputs, values, strict=True)}

    return _joined(outputs, (answer(batch) for batch in _batches(rows, fixed)))


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


def _tflite_outputs(path: Path, rows: Arrays, outputs: list[str]) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=2).get_signature_runner()
    input_details, output_details = run.get_input_details(), run.get_output_details()

    def answer(row: Arrays) -> Arrays:
        entered = {name: _entered(column, input_details[name], name) for name, column in row.items()}
        # The runner hands out views of the interpreter's own memory, which the next row overwrites.
        return {name: _real(value.copy(), output_details[name]) for name, value in run(**entered).items()}

    try:
        return _joined(outputs, (answer(row) for row in _batches(rows)))
    except RuntimeError as e:  # a kernel refuses what the converter wrote
        raise ConversionError(
            f"LiteRT does not run what its converter made of the model: {one_line(e, 200)}; "
            f"{other_ways('ios', 'edge_device')}"
        ) from e


def _entered(column: np.ndarray, details: dict[str, Any], name: str) -> np.ndarray:
    """An input as the file takes it; a scale of 0 is that of a tensor that is not quantized."""
    scale, zero_point = details["quantization"]
    if not scale:
        return integers_in_width(column, np.dtype(details["dtype"]), name)
    # Held to the limits before the cast, which wraps.
    bounds = np.iinfo(details["dtype"])
    return np.asarray(np.clip(np.round(column / scale) + zero_point, bounds.min, bounds.max), details["dtype"])


def _real(value: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return np.asarray((value.astype(np.float32) - zero_point) * scale, np.float32) if scale else value

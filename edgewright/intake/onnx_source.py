"""An ONNX model as a `Source`: ONNX Runtime is its own framework. Runs in a child process."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake.onnx_nodes import drop_unused, has_trees, plain_name, rename_ends
from edgewright.intake.source import TensorSource
from edgewright_runtime.manifest import TensorSpec

__all__ = ["OnnxSource", "external_files", "load_onnx", "run_onnx"]

OLDEST_OPSET = 7
_ROWS_AT_ONCE = 256
_NUMBERS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


class OnnxSource(TensorSource):
    """An ONNX model over arrays."""

    def __init__(self, path: Path, data: DataSpec) -> None:
        self.model = load_onnx(path)
        notes = _keep_scores(self.model, path)
        rename_ends(self.model)
        inputs = _inputs(self.model, {plain_name(name): shape for name, shape in data.shapes.items()}, path)
        self.session = _session(self.model, path)
        super().__init__(inputs, _output(self.session, inputs, path), data)
        self.notes, self.float32_only = notes, has_trees(self.model)

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The model itself, with external data brought inside."""
        return self.model

    def answers(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """ONNX Runtime's answers."""
        return self.judged(run_onnx(self.session, dict(zip(self.names(), self.test_inputs(), strict=True))))

    def names(self) -> list[str]:
        """The inputs' names."""
        return [t.name for t in self.inputs]


def load_onnx(path: Path) -> onnx.ModelProto:
    """A model with its external data, which must lie in the model's own folder.

    Raises:
        InputError: damaged, external data missing or outside the folder.
        UnsupportedError: older than opset 7.
    """
    model = _parsed(path)
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), None)
    if not model.graph.node or (opset is None and not model.opset_import):
        raise InputError(f"{path}: damaged: no nodes or no operator set")
    if opset is not None and opset < OLDEST_OPSET:
        raise UnsupportedError(
            f"{path}: opset {opset}; the oldest that is read is {OLDEST_OPSET}: convert it with onnx.version_converter"
        )
    _external_files(model, path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise InputError(f"{path}: damaged: {_line(e)}") from e
    return model


def external_files(path: Path) -> tuple[Path, ...]:
    """The files in which tensors of a model lie, each once.

    Raises:
        InputError: damaged, external data missing or outside the folder.
    """
    return _external_files(_parsed(path), path)


def run_onnx(session: Any, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The first output for all rows; a fixed batch is fed piece by piece."""
    rows = len(next(iter(inputs.values())))
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else _ROWS_AT_ONCE
    found = []
    for start in range(0, rows, step):
        piece = {name: x[start : start + step] for name, x in inputs.items()}
        kept = len(next(iter(piece.values())))
        if isinstance(fixed, int) and kept < fixed:
            piece = {n: np.concatenate([x, np.repeat(x[-1:], fixed - kept, axis=0)]) for n, x in piece.items()}
        found.append(np.asarray(session.run(None, piece)[0])[:kept].astype(np.float64))
    return np.concatenate(found)


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as e:  # protobuf's own error types differ between its versions
        raise InputError(f"{path}: damaged: no readable ONNX model ({_line(e)})") from e


def _external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    external = (t for t in _tensors(model.graph) if t.data_location == TensorProto.EXTERNAL)
    return tuple(sorted({_external_file(tensor, path) for tensor in external}))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in [attribute.g, *attribute.graphs]:
                yield from _tensors(inner)


def _external_file(tensor: onnx.TensorProto, path: Path) -> Path:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    file: Path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise InputError(f"{path}: tensor '{tensor.name}' lies in '{location}', outside the model's folder: refused")
    if not file.is_file():
        raise InputError(f"{path}: its external data '{location}' is missing")
    try:
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    except ValueError as e:
        raise InputError(f"{path}: tensor '{tensor.name}' has a damaged offset or length") from e
    if end > file.stat().st_size:
        raise InputError(f"{path}: its external data '{location}' is truncated: {file.stat().st_size} of {end} bytes")
    return file


def _keep_scores(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Keep the one output of scores or values; a classifier's label follows from them."""
    numeric = [o for o in model.graph.output if o.type.tensor_type.elem_type in _NUMBERS]
    if len(numeric) != 1:
        shown = ", ".join(o.name for o in model.graph.output)
        raise UnsupportedError(
            f"{path}: outputs {shown}: one tensor of scores or values is supported"
            + (" (export scikit-learn models with zipmap off)" if not numeric else "")
        )
    dropped = [o.name for o in model.graph.output if o.name != numeric[0].name]
    kept = numeric[0].name
    for entry in list(model.graph.output):
        if entry.name != kept:
            model.graph.output.remove(entry)
    if dropped:
        drop_unused(model)
    return (f"of the outputs, {kept} is kept; left out: {', '.join(dropped)}",) if dropped else ()


def _inputs(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], path: Path) -> tuple[TensorSpec, ...]:
    constants = {i.name for i in model.graph.initializer}
    entries = [e for e in model.graph.input if e.name not in constants]
    unknown = set(shapes) - {e.name for e in entries}
    if unknown:
        raise InputError(
            f"{path}: --shape {min(unknown)}: no such input; it takes {', '.join(e.name for e in entries)}"
        )
    return tuple(_input(entry, shapes.get(entry.name), path) for entry in entries)


def _input(entry: onnx.ValueInfoProto, given: tuple[int, ...] | None, path: Path) -> TensorSpec:
    """An input whose every size but the first is a number, by the model or by ``--shape``."""
    kind = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type == TensorProto.STRING:
        raise UnsupportedError(f"{path}: input '{entry.name}' is no tensor of numbers")
    if not kind.HasField("shape") or (given is not None and len(given) != len(kind.shape.dim)):
        raise InputError(
            f"{path}: input '{entry.name}' has {len(kind.shape.dim)} axes; --shape gives {len(given or ())}"
        )
    shape = []
    for axis, dim in enumerate(kind.shape.dim):
        size = dim.dim_value if dim.dim_value > 0 else None
        if size is None and axis > 0 and given is not None:
            size = given[axis]
            dim.dim_value = size
        if size is None and axis > 0:
            raise InputError(
                f"{path}: input '{entry.name}', axis {axis} has a free size ({dim.dim_param or 'unnamed'}); "
                f"give it: --shape {entry.name}=1,..."
            )
        shape.append(-1 if size is None else size)
    return TensorSpec(entry.name, tuple(shape), helper.tensor_dtype_to_np_dtype(kind.elem_type).name)


def _session(model: onnx.ModelProto, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The referee computes what the file says: nothing fused, nothing reordered.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's errors share no base that it exports
        raise InputError(f"{path}: ONNX Runtime cannot load it: {_line(e)}") from e


def _output(session: Any, inputs: tuple[TensorSpec, ...], path: Path) -> TensorSpec:
    """The output's name, dtype and shape, by running one row of zeros."""
    zeros = {t.name: np.zeros((abs(t.shape[0]), *t.shape[1:]) if t.shape else (), dtype=t.dtype) for t in inputs}
    try:
        found = session.run(None, zeros)[0]
    except Exception as e:  # ONNX Runtime's errors share no base that it exports
        raise InputError(f"{path}: ONNX Runtime cannot run it: {_line(e)}") from e
    shape = (inputs[0].shape[0], *found.shape[1:]) if found.shape else ()
    return TensorSpec(session.get_outputs()[0].name, shape, found.dtype.name)


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[:200]

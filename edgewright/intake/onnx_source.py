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
from edgewright.failures import one_line
from edgewright.intake.given_shapes import input_sizes
from edgewright.intake.onnx_loops import limit_s, refuse_endless_loops, run_within
from edgewright.intake.onnx_nodes import fix_input, has_trees, rename_ends
from edgewright.intake.onnx_outputs import NUMBERS, Asked, keep_numbers
from edgewright.intake.onnx_rows import put_input_rows_first
from edgewright.intake.onnx_tensors import graphs_of, refuse_incomplete_nodes, type_name, write_out_sparse
from edgewright.intake.onnx_training import refuse_training_mode
from edgewright.intake.single_numbers import fixed_note, single_number
from edgewright.intake.source import AskedSource
from edgewright_runtime.bundle.manifest import TensorSpec
from edgewright_runtime.disk import check_plain

__all__ = ["OnnxSource", "external_files", "load_onnx", "run_onnx"]

OLDEST_OPSET = 7
# Rows a call where the batch is free: memory of activations is bounded.
_ROWS_AT_ONCE = 256


_HELD_WITHOUT_INPUT = 4
"""The IR version from which an initializer needs no input of its name."""


class OnnxSource(AskedSource):
    """An ONNX model over arrays."""

    def __init__(self, path: Path, data: DataSpec) -> None:
        self.model = load_onnx(path)
        # Before anything runs: ONNX Runtime would not come back from such a loop.
        refuse_endless_loops(self.model, str(path))
        notes = keep_numbers(self.model, path)
        # Names first, so that notes, shapes and data speak of the same inputs.
        rename_ends(self.model)
        notes += _fix_numbers(self.model, data, path)
        refuse_training_mode(self.model, str(path))
        moved = put_input_rows_first(self.model)
        # Sizes are fixed in the model itself, so that ONNX Runtime and the importer read the same ones.
        inputs = _inputs(self.model, data.shapes, path)
        asked = Asked(self.model, inputs, path, moved)
        self.session = asked.session
        super().__init__(asked.inputs, asked.outputs, data)
        # A threshold of a tree decides by single bits of float32.
        self.notes, self.float32_only = notes + asked.notes, has_trees(self.model)

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The model itself, with external data brought inside."""
        return self.model

    def ask(self, inputs: list[NDArray[Any]]) -> list[NDArray[np.float64]]:
        """ONNX Runtime's answers."""
        try:
            feeds = dict(zip((t.name for t in self.inputs), inputs, strict=True))
            return run_onnx(self.session, feeds, limit_s(self.model))
        except UnsupportedError as e:
            raise UnsupportedError(f"the model does not end on its own data: {e}") from e
        except Exception as e:  # ONNX Runtime's errors share no base that it exports
            raise InputError(f"the model refuses its own data: ONNX Runtime: {one_line(e)}") from e


def load_onnx(path: Path) -> onnx.ModelProto:
    """A model with its external data, which must lie in the model's own folder.

    Raises:
        InputError: damaged, external data missing or outside the folder.
        UnsupportedError: older than opset 7.
    """
    model = _parsed(path)
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), None)
    # A model of ai.onnx.ml alone may leave the default domain out.
    if not model.graph.node or (opset is None and not model.opset_import):
        raise InputError(f"{path}: damaged: no nodes or no operator set")
    if opset is not None and opset < OLDEST_OPSET:
        raise UnsupportedError(
            f"{path}: opset {opset}; the oldest that is read is {OLDEST_OPSET}: convert it with onnx.version_converter"
        )
    # Checked before onnx opens them: a location is the file's own choice.
    _external_files(model, path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as e:  # what a damaged description of external data raises
        raise InputError(f"{path}: damaged: {one_line(e, 200)}") from e
    try:
        write_out_sparse(model)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e  # a tensor knows no file
    # Before anything reads a node's operands by their places.
    refuse_incomplete_nodes(model, str(path))
    _hold_initializers(model)
    return model


def _hold_initializers(model: onnx.ModelProto) -> None:
    """What has a value is not an input: before IR version 4 it stands among both, and a caller may give another value.

    ONNX Runtime then folds nothing that depends on it, and loses such values when it writes a graph.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    asked = [value for value in model.graph.input if value.name not in held]
    if len(asked) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(asked)
        # Before it every initializer must stand among the inputs.
        model.ir_version = max(model.ir_version, _HELD_WITHOUT_INPUT)


def external_files(path: Path) -> tuple[Path, ...]:
    """The files in which tensors of a model lie, each once.

    Raises:
        InputError: damaged, external data missing or outside the folder.
    """
    return _external_files(_parsed(path), path)


def run_onnx(
    session: Any, inputs: Mapping[str, NDArray[Any]], seconds: float | None = None
) -> list[NDArray[np.float64]]:
    """Each output for all rows; a fixed batch is fed piece by piece, each within so many seconds."""
    rows = len(next(iter(inputs.values())))
    fixed = session.get_inputs()[0].shape[0]
    # ONNX Runtime gives a number for a fixed size, a name or None for a free one.
    step = fixed if isinstance(fixed, int) else _ROWS_AT_ONCE
    batch_answers: list[list[NDArray[np.float64]]] = []
    for start in range(0, rows, step):
        piece = {name: x[start : start + step] for name, x in inputs.items()}
        row_count = len(next(iter(piece.values())))
        if isinstance(fixed, int) and row_count < fixed:
            piece = {n: np.concatenate([x, np.repeat(x[-1:], fixed - row_count, axis=0)]) for n, x in piece.items()}
        batch_answers.append(
            [np.asarray(result)[:row_count].astype(np.float64) for result in run_within(session, piece, seconds)]
        )
    return [np.concatenate(column) for column in zip(*batch_answers, strict=True)]


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as e:  # protobuf's own error types differ between its versions
        raise InputError(f"{path}: damaged: no readable ONNX model ({one_line(e, 200)})") from e


def _external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    external = (t for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL)
    return tuple(sorted({_external_file(tensor, path) for tensor in external}))


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in graphs_of(model):
        yield from graph.initializer if isinstance(graph, onnx.GraphProto) else ()
        for node in graph.node:
            for attribute in node.attribute:
                # A field that is not set reads as an empty tensor, which holds nothing external.
                yield attribute.t
                yield from attribute.tensors


def _external_file(tensor: onnx.TensorProto, path: Path) -> Path:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    # Both resolved, so that a link inside the folder cannot lead out of it.
    folder = path.parent.resolve()
    if not isinstance(location, str) or "\0" in location:
        raise InputError(f"{path}: tensor '{tensor.name}' lies in a file whose name is not text: refused")
    shown = one_line(location, 80)
    try:
        file: Path = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
            raise InputError(f"{path}: tensor '{tensor.name}' lies in '{shown}', outside the model's folder: refused")
        check_plain(file)
    except FileNotFoundError as e:
        raise InputError(f"{path}: its external data '{shown}' is missing") from e
    except (OSError, RuntimeError) as e:  # a link to itself is a RuntimeError of pathlib's
        reason = e.strerror if isinstance(e, OSError) else "a link that leads to itself"
        raise InputError(f"{path}: its external data '{shown}' cannot be read: {reason}") from e
    try:
        # Left out they mean the whole file.
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError as e:
        raise InputError(f"{path}: tensor '{tensor.name}' has a damaged offset or length") from e
    end = offset + length
    if min(offset, length) < 0:
        raise InputError(f"{path}: tensor '{tensor.name}' has the offset {offset} and the length {length}: damaged")
    if end > file.stat().st_size:
        raise InputError(f"{path}: its external data '{shown}' is truncated: {file.stat().st_size} of {end} bytes")
    return file


def _inputs(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], path: Path) -> tuple[TensorSpec, ...]:
    constants = {i.name for i in model.graph.initializer}
    entries = [e for e in model.graph.input if e.name not in constants]
    if not entries:
        raise UnsupportedError(f"{path}: it takes no input; a model answers rows, on the first axis of an input")
    declared = {entry.name: _declared(entry, path) for entry in entries}
    sizes = input_sizes(declared, shapes, path)
    # The first axis stays free.
    for entry in entries:
        for dim, size in list(zip(entry.type.tensor_type.shape.dim, sizes[entry.name], strict=True))[1:]:
            dim.dim_value = size
    kinds = {e.name: helper.tensor_dtype_to_np_dtype(e.type.tensor_type.elem_type).name for e in entries}
    return tuple(TensorSpec(name, sizes[name], kind) for name, kind in kinds.items())


def _fix_numbers(model: onnx.ModelProto, data: DataSpec, path: Path) -> tuple[str, ...]:
    """Make constants of the inputs that are a single number; notes."""
    notes = []
    constants = {i.name for i in model.graph.initializer}
    for entry in [e for e in model.graph.input if e.name not in constants]:
        kind = entry.type.tensor_type
        if kind.HasField("shape") and not len(kind.shape.dim) and kind.elem_type in NUMBERS:
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            value = single_number(data, entry.name, dtype.name, path)
            fix_input(model, entry.name, value)
            notes.append(fixed_note(entry.name, value))
    if notes and not any(e.name not in constants for e in model.graph.input):
        raise UnsupportedError(f"{path}: it takes single numbers alone; the first axis of an input must be the rows")
    return tuple(notes)


def _declared(entry: onnx.ValueInfoProto, path: Path) -> list[int | str]:
    """The sizes of an input; a free one by its name."""
    kind = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type not in NUMBERS:
        raise UnsupportedError(
            f"{path}: input '{entry.name}' is not a tensor of numbers (element type {type_name(kind.elem_type)})"
        )
    if not kind.HasField("shape"):
        raise InputError(
            f"{path}: input '{entry.name}' does not say how many axes it has: export the model with their sizes"
        )
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in kind.shape.dim]

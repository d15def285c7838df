"""ONNX inputs and outputs whose rows lie on their second axis, as a recurrent state's (layers, N, hidden) do.

Outside they are rows as any others, (N, layers, hidden), what data and devices deal in; a Transpose stands between.
Runs in a child process: imports onnx.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from edgewright.intake.onnx_nodes import rename_ends

__all__ = ["put_input_rows_first", "put_output_rows_first", "rows_first_note"]

_PROBES = (2, 5)
"""Rows; an output's axis that has first one size, then the other, is that of the rows."""


def put_input_rows_first(model: onnx.ModelProto) -> list[str]:
    """Give every input whose rows are on its second axis another that has them on its first; their names.

    Such an input has another first axis than the rows of the others, and theirs as its second: free, or the same size.
    """
    constants = {i.name for i in model.graph.initializer}
    inputs = [e for e in model.graph.input if e.name not in constants and len(_sizes(e))]
    first = [_sizes(e)[0] for e in inputs]
    # A named first size is the batch; without one the first input's own first size counts.
    free: set[int | str] = {size for size in first if isinstance(size, str)}
    rows = free or set(first[:1])
    moved = [entry for entry in inputs if _are_second(_sizes(entry), rows)]
    for entry in moved:
        replacement = _swapped(entry)
        model.graph.node.insert(0, _transpose(replacement.name, entry.name, len(_sizes(entry))))
        # Nodes that read the input keep its name; the Transpose in front of them gives it.
        entry.CopyFrom(replacement)
    return _with_own_names(model, moved)


def put_output_rows_first(
    model: onnx.ModelProto, answered: Callable[[int], Mapping[str, NDArray[Any]]], batch: int
) -> list[str]:
    """The same for outputs; ``answered`` gives the outputs for so many rows, ``batch`` is their number where fixed."""
    # Two sizes tell the axis of the rows from one that happens to be as long; a fixed batch allows one.
    probes = (batch,) if batch > 0 else _PROBES
    probe_shapes = [{name: array.shape for name, array in answered(rows).items()} for rows in probes]
    moved = [
        entry for entry in model.graph.output if _were_second([shapes[entry.name] for shapes in probe_shapes], probes)
    ]
    for entry in moved:
        axes = len(probe_shapes[0][entry.name])
        new_name = f"{entry.name}_rows_first"
        sizes = [batch if batch > 0 else None, *[None] * (axes - 1)]
        model.graph.node.append(_transpose(entry.name, new_name, axes))
        entry.CopyFrom(helper.make_tensor_value_info(new_name, entry.type.tensor_type.elem_type, sizes))
    return _with_own_names(model, moved)


def rows_first_note(names: Iterable[str]) -> str:
    """For the notes of an imported model."""
    names_text = ", ".join(f"'{name}'" for name in names)
    return f"the model has the rows of {names_text} on the second axis; here they are on the first, as everywhere else"


def _are_second(sizes: list[int | str], rows: set[int | str]) -> bool:
    # A free first axis is the rows themselves.
    if len(sizes) < 2 or isinstance(sizes[0], str) or sizes[0] in rows:
        return False
    names = {s for s in rows if isinstance(s, str)}
    # "" is a free size without a name: it may be the batch where that is free as well.
    return sizes[1] in rows or (isinstance(sizes[1], str) and "" in {sizes[1], *names} and bool(names))


def _were_second(shapes: Sequence[tuple[int, ...]], rows: tuple[int, ...]) -> bool:
    if any(len(shape) < 2 for shape in shapes):
        return False
    first, second = zip(*(shape[:2] for shape in shapes), strict=True)
    # With one probe a square output (N, N, ...) tells nothing: it stays as it is.
    return second == rows and len(set(first)) == 1 and (len(rows) > 1 or first != rows)


def _sizes(entry: onnx.ValueInfoProto) -> list[int | str]:
    """A number, or the name of a free size, which may be empty."""
    return [d.dim_value if d.dim_value > 0 else d.dim_param for d in entry.type.tensor_type.shape.dim]


def _swapped(entry: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    first, second, *rest = (size if size != "" else None for size in _sizes(entry))
    kind = entry.type.tensor_type.elem_type
    return helper.make_tensor_value_info(f"{entry.name}_rows_first", kind, [second, first, *rest])


def _transpose(source: str, target: str, axes: int) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [target], f"{target}_transposed", perm=[1, 0, *range(2, axes)])


def _with_own_names(model: onnx.ModelProto, moved: list[onnx.ValueInfoProto]) -> list[str]:
    """The ends bear the names again that their tensors had; those inside get others."""
    names = [entry.name.removesuffix("_rows_first") for entry in moved]
    rename_ends(model, {entry.name: name for entry, name in zip(moved, names, strict=True)})
    return names

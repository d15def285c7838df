"""What a source becomes inside: its own program as the torch graph, or ONNX and the graph that is imported from it.

Each is compared with the source before it counts; what fails is set aside with its reason, and the paths that need
none go on: ONNX to ONNX, and for TensorFlow's models the platforms' own converters. Runs in a child process.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import ConversionError, EdgewrightError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.agreement import compare_graph, compare_onnx
from edgewright.intake.source import Source

if TYPE_CHECKING:
    import onnx

__all__ = ["Inside", "brought_inside"]

OutputArrays = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class Inside:
    """``graph`` is a `torch.fx.GraphModule`; ``refusal`` says why there is none.

    Neither is there only of a source that platforms convert themselves.
    """

    onnx: "onnx.ModelProto | None"
    graph: Any
    refusal: str | None


def brought_inside(source: Source, name: str, reference: OutputArrays) -> Inside:
    """The model as every later step takes it; ``reference`` is the source's answers to the test rows.

    Raises:
        UnsupportedError: nothing of the model has a way inside.
        ConversionError: an exporter failed, or what it made disagrees with the source.
    """
    try:
        graph = source.to_graph()
        if graph is None:
            return _by_onnx(source, name, reference)
        return Inside(None, _agreeing(graph, source, name, reference), None)
    except (UnsupportedError, ConversionError) as e:
        # Only a source with a program of its own has ONNX left to try.
        if _is_onnx_the_way(source):
            raise
        refusal = str(e)
    try:
        exported = source.to_onnx(name)
        compare_onnx(exported, source, reference, f"{name}: the ONNX graph")
    except EdgewrightError as e:
        raise UnsupportedError(f"{refusal}; nor by way of ONNX: {e}") from e
    source.notes += (f"taken by way of ONNX, without a graph: {refusal}",)
    return Inside(exported, None, refusal)


def _is_onnx_the_way(source: Source) -> bool:
    return type(source).to_graph is Source.to_graph


def _agreeing(graph: Any, source: Source, name: str, reference: OutputArrays) -> Any:
    """The program's graph, its batch free where it then answers alike."""
    from edgewright.intake.free_program import freed

    size = source.inputs[0].shape[0]
    candidate = freed(graph, size) if size > 0 else None
    if candidate is None:
        compare_graph(graph, source, reference, f"{name}: the graph")
        return graph
    # The comparison takes its batches from what the source declares.
    fixed = _with_free_axes(source)
    try:
        compare_graph(candidate, source, reference, f"{name}: the graph with a free batch")
    except ConversionError as e:
        source.inputs, source.outputs = fixed
        _keep_fixed(source, size, str(e))
        compare_graph(graph, source, reference, f"{name}: the graph")
        return graph
    source.notes += (_freed_note(size),)
    return candidate


def _by_onnx(source: Source, name: str, reference: OutputArrays) -> Inside:
    try:
        exported = source.to_onnx(name)
        freed = _with_free_batch(exported, source, name, reference)
        if freed is not None:
            return freed
        compare_onnx(exported, source, reference, f"{name}: the ONNX graph")
    except (UnsupportedError, ConversionError) as e:
        # The platform's converter keeps the batch of the file, and a device gives one row.
        if not source.has_own_converters or source.inputs[0].shape[0] > 1:
            raise
        source.notes += (f"neither ONNX nor a graph: {e}",)
        return Inside(None, None, str(e))
    return Inside(exported, *_imported(exported, source, name, reference))


def _with_free_batch(exported: "onnx.ModelProto", source: Source, name: str, reference: OutputArrays) -> Inside | None:
    """The model for any number of rows, where it then answers as the source does; else None, with a note.

    Compared are one row and many at once: an operator that mixes rows shows itself there.

    Raises:
        UnsupportedError: it answers otherwise, and takes several rows at a time; a device gives one.
    """
    from edgewright.intake.free_batch import fixed_batch, with_free_batch

    size, free = fixed_batch(exported), with_free_batch(exported)
    if size is None or free is None or any(t.shape[:1] != (size,) for t in source.inputs):
        return None
    fixed = _with_free_axes(source)
    inside: Inside | None = None
    try:
        compare_onnx(free, source, reference, "freed")
        inside = Inside(free, *_imported(free, source, name, reference))
        refusal = inside.refusal
    except ConversionError as e:
        refusal = str(e)
    # Without a graph a batch of 1 may stay, since a device gives one row; any other must be freed.
    if inside is not None and (refusal is None or size > 1):
        source.notes += (_freed_note(size),)
        return inside
    source.inputs, source.outputs = fixed
    _keep_fixed(source, size, str(refusal))
    return None


def _with_free_axes(source: Source) -> tuple[Any, Any]:
    """Declare the first axis of inputs and outputs free; what they were is returned."""
    fixed = source.inputs, source.outputs
    source.inputs, source.outputs = (
        tuple(dataclasses.replace(t, shape=(-1, *t.shape[1:])) for t in tensors) for tensors in fixed
    )
    return fixed


def _freed_note(size: int) -> str:
    return f"the batch size, {size} in the file, was freed: rows answered at once agree with the source"


def _keep_fixed(source: Source, size: int, why: str) -> None:
    if size > 1:
        raise UnsupportedError(
            f"the model takes {size} rows at a time, and answers otherwise where they are one or many; a device gives "
            f"one row at a time: export the model with a batch of 1, or with a free one ({why})"
        )
    source.notes += (f"the batch size is fixed at {size}, and stays so; what trains or prunes needs a free one",)


def _imported(model: "onnx.ModelProto", source: Source, name: str, reference: OutputArrays) -> tuple[Any, str | None]:
    """The torch graph and None, or None and why there is none: paths that need no graph are sound all the same."""
    from edgewright.intake.onnx_graph import import_onnx

    try:
        graph = import_onnx(model)
        compare_graph(graph, source, reference, f"{name}: the imported graph")
    except (UnsupportedError, ConversionError) as e:
        return None, str(e)
    except Exception as e:  # of torch, onnx or numpy, outside of any one operator
        return None, f"{name}: the importer failed: {type(e).__name__}: {one_line(e)}"
    return graph, None

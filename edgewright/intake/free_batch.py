"""Freeing the batch size of an ONNX graph that was exported with a fixed one. Runs in a child process.

Exporters write the batch size of their example into inputs and into the shapes of Reshape; training, calibration and
comparison need many rows at once. What is made here is a proposal: intake compares it with the source on real rows,
one at a time and many at once, and keeps the fixed graph where they differ.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgewright.intake.onnx_tensors import array_of

__all__ = ["fixed_batch", "with_free_batch"]

_OF_SHAPES = {"Constant", "Concat", "Reshape", "Cast", "Squeeze", "Unsqueeze", "Gather", "Slice", "Identity"}


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The size that stands on the first axis of every input and output; None where it is free or they differ."""
    constants = {i.name for i in model.graph.initializer}
    # An output may be declared without a shape.
    ends = [*(e for e in model.graph.input if e.name not in constants), *(o for o in model.graph.output if _dims(o))]
    sizes = {_dims(entry)[0].dim_value if _dims(entry) else 0 for entry in ends}
    (size, *others) = sizes
    return size if size > 0 and not others else None


def _dims(entry: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    dims: Sequence[onnx.TensorShapeProto.Dimension] = entry.type.tensor_type.shape.dim
    return dims


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy that takes any number of rows, if its operators allow it; None where the batch is free already."""
    size = fixed_batch(model)
    if size is None:
        return None
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    constants = {i.name: i for i in freed.graph.initializer}
    for entry in [*freed.graph.input, *freed.graph.output]:
        if entry.name not in constants and _dims(entry):
            _dims(entry)[0].dim_param = "batch"
    del freed.graph.value_info[:]  # they hold the old size
    known = _known_shapes(freed)
    for count, node in enumerate(_reading_inputs(freed)):
        shape = known.get(node.input[1]) if node.op_type == "Reshape" else None
        # A 0 is an empty axis under `allowzero`, and would become a copied one below.
        if shape is not None and shape.ndim == 1 and shape.size and shape[0] == size and 0 not in shape:
            _let_follow(freed, node, shape, f"free_batch_shape_{count}")
    return freed


def _reading_inputs(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes whose data come from an input, not from constants alone."""
    constants = {i.name for i in model.graph.initializer}
    reached = {e.name for e in model.graph.input} - constants
    for node in model.graph.node:
        if node.input and node.input[0] in reached:
            reached.update(node.output)
            yield node
        # Its data are constant, so their shape stays; what it computes follows the rows.
        elif reached.intersection(node.input):
            reached.update(node.output)


def _let_follow(model: onnx.ModelProto, node: onnx.NodeProto, shape: NDArray[np.int64], name: str) -> None:
    """A Reshape takes its data's own first size (0) in place of the one that is written."""
    # Without `allowzero`, 0 copies the size of the data.
    for attribute in node.attribute:
        if attribute.name == "allowzero":
            attribute.i = 0
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], dtype=np.int64), name))
    node.input[1] = name


def _known_shapes(model: onnx.ModelProto) -> dict[str, NDArray[np.int64]]:
    """Lists of whole numbers that follow from constants alone; exporters write a shape piece by piece."""
    known = {
        i.name: array_of(i).astype(np.int64)
        for i in model.graph.initializer
        if i.data_type == onnx.TensorProto.INT64 and len(i.dims) < 2
    }
    for node in model.graph.node:
        if node.op_type in _OF_SHAPES and all(name in known for name in node.input):
            constant = _computed(node, known)
            if isinstance(constant, np.ndarray) and constant.dtype == np.int64 and constant.ndim < 2:
                known[node.output[0]] = constant
    return known


def _computed(node: onnx.NodeProto, known: dict[str, NDArray[np.int64]]) -> object:
    """What a node of constants gives; None where ONNX's reference fails on it: that shape is then left as it is."""
    from onnx.reference import ReferenceEvaluator

    try:
        (constant,) = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input})
    except Exception:  # it raises whatever numpy does
        return None
    return constant

"""Tensors and nodes of an ONNX file as they must be before anything reads them. Runs in a child process: imports onnx.

A file is what somebody else wrote: a tensor of no type, data that are cut off, a node without its operands. Sparse
tensors, which nothing else here reads, are written out.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from edgewright.errors import InputError
from edgewright.failures import one_line

__all__ = ["array_of", "graphs_of", "refuse_incomplete_nodes", "type_name", "write_out_sparse"]

_MAX_BYTES = (1 << 31) - 1
"""What a message of protobuf can hold, which an ONNX model is."""


def array_of(tensor: onnx.TensorProto, path: Path | None = None) -> NDArray[Any]:
    """The numbers of a tensor, of the file at ``path`` where that is known.

    Raises:
        InputError: its type is none of ONNX, or its data are not as many as its shape says.
    """
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{f'{path}: ' if path else ''}damaged: the tensor '{tensor.name}' cannot be read as type "
            f"{type_name(tensor.data_type)} of shape {list(tensor.dims)}: {one_line(e, 120)}; export the model again"
        ) from e


def type_name(number: int) -> str:
    """``FLOAT`` of 1; a number that stands for no type of ONNX stays one."""
    return str(TensorProto.DataType.Name(number)) if number in TensorProto.DataType.values() else str(number)


@overload
def graphs_of(part: onnx.GraphProto) -> Iterator[onnx.GraphProto]: ...
@overload
def graphs_of(part: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]: ...
def graphs_of(part: onnx.ModelProto | onnx.GraphProto) -> Iterator[Any]:
    """A model's graph and functions, or a graph, and every graph that nodes inside hold, as the branches of an ``If``,
    which read the values around them by name."""
    # No recursion: how deep graphs lie in each other is the file's choice.
    waiting: list[Any] = [part] if isinstance(part, onnx.GraphProto) else [part.graph, *part.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def refuse_incomplete_nodes(model: onnx.ModelProto, what: str) -> None:
    """Refuse a node with fewer operands or results than its operator must have.

    Raises:
        InputError: it has one; names it.
    """
    own = {o.domain: o.version for o in model.opset_import}
    for graph in graphs_of(model):
        opsets = own | (
            {o.domain: o.version for o in graph.opset_import} if isinstance(graph, onnx.FunctionProto) else {}
        )
        for node in graph.node:
            _refuse_incomplete(node, opsets, what)


def _refuse_incomplete(node: onnx.NodeProto, opsets: dict[str, int], what: str) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = defs.get_schema(node.op_type, opsets.get(domain, opsets.get("ai.onnx", 1)), domain)
    except defs.SchemaError:
        return  # an operator of ONNX Runtime's own, or of the model: not ONNX's to say
    for kind, given, least in (
        ("inputs", node.input, schema.min_input),
        ("outputs", node.output, schema.min_output),
    ):
        if len(given) < least:
            raise InputError(
                f"{what}: damaged: node '{node.name}' ({node.op_type}) has {len(given)} {kind} of at least {least}"
            )


def write_out_sparse(model: onnx.ModelProto) -> None:
    """Make ordinary tensors of the sparse ones: initializers, and what a Constant holds.

    Raises:
        InputError: a position outside its shape, data in another file, or too large for a model.
    """
    # A few bytes announce a large tensor: what all of them take is bounded before one is made.
    size = sum(map(_size_of, _sparse_tensors(model)))
    if size > _MAX_BYTES:
        raise InputError(f"its sparse tensors take {size:,} bytes: 2 GB is the most")
    for graph in graphs_of(model):
        if isinstance(graph, onnx.GraphProto) and graph.sparse_initializer:
            graph.initializer.extend(map(_written_out, graph.sparse_initializer))
            del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "sparse_value" and node.op_type == "Constant":
                    attribute.t.CopyFrom(_written_out(attribute.sparse_tensor))
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                    attribute.ClearField("sparse_tensor")


def _sparse_tensors(model: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    for graph in graphs_of(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.sparse_initializer
        for node in graph.node:
            yield from (attribute.sparse_tensor for attribute in node.attribute if attribute.name == "sparse_value")


def _size_of(sparse: onnx.SparseTensorProto) -> int:
    """Bytes of the ordinary tensor; a damaged shape or type is told when it is written out."""
    known = sparse.values.data_type in helper.get_all_tensor_dtypes()
    item = int(helper.tensor_dtype_to_np_dtype(sparse.values.data_type).itemsize) if known else 1
    return max(int(math.prod(sparse.dims)), 0) * item


def _written_out(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, shape = sparse.values, list(sparse.dims)
    # Their location would be read from wherever this process runs.
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in (values, sparse.indices)):
        raise InputError(f"sparse tensor '{values.name}' lies in another file: not supported; save it in the model")
    numbers = array_of(values)
    if min(shape, default=0) < 0 or math.prod(shape) * numbers.itemsize > _MAX_BYTES:
        raise InputError(f"sparse tensor '{values.name}' of shape {shape}: a tensor holds 2 GB at most")
    try:
        full = np.zeros(math.prod(shape), numbers.dtype)
        full[_places(array_of(sparse.indices), shape)] = numbers
    except (IndexError, TypeError, ValueError) as e:
        raise InputError(f"damaged: sparse tensor '{values.name}' of shape {shape}: {one_line(e, 120)}") from e
    return numpy_helper.from_array(full.reshape(shape), values.name)


def _places(indices: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """(n,) positions, or (n, axes) of them on each axis, as positions of the flat array."""
    if indices.ndim == 2:
        return np.asarray(np.ravel_multi_index(tuple(indices.T), tuple(shape)))
    if (indices < 0).any():  # which NumPy would count from the end
        raise IndexError("a position below 0")
    return indices

"""Where the weights lie inside a ``.tflite``, ``.onnx`` or Core ML weight file, so that they are coded as tensors."""

import struct
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from edgewright.codec.writer import TensorSpan
from edgewright.errors import InputError

__all__ = ["find_tensors"]

# A tensor's description takes some ten bytes: a few numbers cost less in the skeleton.
_FEWEST_ELEMENTS = 8
_TFLITE_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "<u1", 9: "<i1", 7: "<i2"}
_ONNX_DTYPES = {1: "<f4", 2: "<u1", 3: "<i1", 5: "<i2", 6: "<i4", 10: "<f2"}
# Core ML's BlobDataType; a type of less than a byte, or an unknown one, is coded as bytes.
_MIL_DTYPES = {1: "<f2", 2: "<f4", 3: "<u1", 4: "<i1"}
_MIL_SENTINEL = 0xDEADBEEF
_MIL_ALIGNMENT = 64


def find_tensors(content: bytes) -> list[TensorSpan]:
    """The tensors of at least eight elements, in file order, not overlapping.

    A tensor that is stored in another way (external data, text fields) is left out: it stays in the skeleton.

    Raises:
        InputError: the file is of no known kind.
    """
    # The file identifier of a flatbuffer stands behind its root's offset.
    if content[4:8] == b"TFL3":
        tensors = _in_tflite(content)
    elif _is_mil(content):
        tensors = _in_mil(content)
    else:
        tensors = _in_onnx(content)
    spans: list[TensorSpan] = []
    for span in sorted(tensors, key=lambda s: s.start):
        # Two tensors may share bytes, as equal constants do: the first has them.
        if span.rows * span.columns >= _FEWEST_ELEMENTS and (not spans or span.start >= spans[-1].stop):
            spans.append(span)
    return spans


def _matrix(start: int, dtype: str, shape: tuple[int, ...]) -> TensorSpan:
    """Rows are the first axis; what repeats along a row is the product of any trailing axes."""
    rows = shape[0] if len(shape) > 1 else 1
    blocks = {prod(shape[axis:]) for axis in range(2, len(shape))}
    return TensorSpan(start, dtype, rows, prod(shape) // rows if rows else 0, tuple(sorted(blocks - {1})))


def _fits(shape: tuple[int, ...], dtype: str, stored_bytes: int) -> bool:
    """Whether a tensor's shape is that of its bytes; where it is not, as in a damaged file, they stay as they are."""
    return min(shape, default=1) >= 0 and prod(shape) * np.dtype(dtype).itemsize == stored_bytes


def _in_onnx(content: bytes) -> Iterator[TensorSpan]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as e:
        raise InputError("only .tflite, .onnx and Core ML weight files can be coded; this file is none") from e
    at = 0
    for tensor in _onnx_tensors(model.graph):
        raw = tensor.raw_data
        # Protobuf does not tell where a field lay; equal bytes at an earlier place would do as well.
        start = content.find(raw, at) if raw else -1
        dtype, shape = _ONNX_DTYPES.get(tensor.data_type), tuple(tensor.dims)
        if start >= 0 and dtype is not None and _fits(shape, dtype, len(raw)):
            at = start + len(raw)
            yield _matrix(start, dtype, shape)


def _onnx_tensors(graph: Any) -> Iterator[Any]:
    # Nodes are serialized before initializers, and the search goes forward.
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
    yield from graph.initializer


def _in_tflite(content: bytes) -> Iterator[TensorSpan]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    # The reader gives views of the file, so a difference of addresses is a place in it.
    base = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    seen = set()
    for subgraph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for tensor in (subgraph.Tensors(i) for i in range(subgraph.TensorsLength())):
            number = tensor.Buffer()
            data = model.Buffers(number).DataAsNumpy()
            # Buffers are shared, as by two subgraphs; number 0 is empty, of tensors that are computed.
            if number in seen or tensor.Type() not in _TFLITE_DTYPES or not isinstance(data, np.ndarray):
                continue
            seen.add(number)
            dtype = _TFLITE_DTYPES[tensor.Type()]
            shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else (1,)
            # A sparse tensor's data is shorter than its shape says.
            if _fits(shape, dtype, len(data)):
                yield _matrix(data.__array_interface__["data"][0] - base, dtype, shape)


def _is_mil(content: bytes) -> bool:
    return (
        len(content) >= 2 * _MIL_ALIGNMENT
        and struct.unpack_from("<I", content, 4)[0] == 2
        and struct.unpack_from("<I", content, _MIL_ALIGNMENT)[0] == _MIL_SENTINEL
    )


def _in_mil(content: bytes) -> Iterator[TensorSpan]:
    """Core ML's weight file, version 2: a header, then for each blob 64 bytes of metadata and the data."""
    at = _MIL_ALIGNMENT
    for _ in range(struct.unpack_from("<I", content, 0)[0]):
        if at + 24 > len(content):
            return
        sentinel, dtype, size, offset = struct.unpack_from("<IIQQ", content, at)
        # Data begins behind its metadata; one that lies before would be read again and again.
        if sentinel != _MIL_SENTINEL or offset < at + _MIL_ALIGNMENT or offset + size > len(content):
            return
        element = _MIL_DTYPES.get(dtype, "<u1")
        yield TensorSpan(offset, element, 1, size // np.dtype(element).itemsize)
        # Each blob's metadata begins at the next multiple of 64 bytes.
        at = -(-(offset + size) // _MIL_ALIGNMENT) * _MIL_ALIGNMENT

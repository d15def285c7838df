"""`.tflite`: every tensor with a buffer is a constant."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import InputError
from edgewright.export import tflite
from edgewright.export.packed_bits import unpacked
from edgewright.export.readers.contents import Contents
from edgewright.export.readers.tally import Tally

__all__ = ["read"]

_NUMPY = {
    "float32": "f4", "float16": "f2", "float64": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "bool": "?",
}  # fmt: skip
_PACKED = {"int4": 4, "uint4": 4, "int2": 2}  # bits of an element


def read(path: Path) -> Contents:
    """What a `.tflite` stores.

    Raises:
        InputError: not a `.tflite` file, or a damaged one.
    """
    model = tflite.load(path)
    tally, counted = Tally(), set[int]()
    operators: Counter[str] = Counter()
    for graph in model.subgraphs:
        operators.update(tflite.operator_name(model, operator) for operator in graph.operators)
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            # An activation has a buffer too, an empty one; tensors of the same content may share theirs.
            if data is not None and len(data) and tensor.buffer not in counted:
                counted.add(tensor.buffer)
                _count(tally, tensor, np.asarray(data, dtype=np.uint8), path)
    declared = tflite.tensors(path)
    return tally.result(declared.inputs, declared.outputs, dict(operators), [f"schema version {model.version}"])


def _count(tally: Tally, tensor: Any, data: np.ndarray, path: Path) -> None:
    dtype = tflite.DTYPES[tensor.type]
    scaled = tensor.quantization is not None and tensor.quantization.scale is not None
    is_weight = scaled or dtype.startswith("float")
    # A quantized zero is its zero point; weights are symmetric, so it is 0 but for old asymmetric files.
    zero = tflite.zero_point(tensor) if scaled and len(tensor.quantization.scale) == 1 else 0
    if dtype in _NUMPY:
        if data.size % np.dtype(_NUMPY[dtype]).itemsize:
            raise InputError(f"{path}: {data.size} bytes are no whole number of {dtype}; export the model again")
        values = data.view(_NUMPY[dtype])
        tally.add(dtype, values.size, int((values == zero).sum()), data.nbytes, is_weight=is_weight)
    elif dtype in _PACKED:
        bits = _PACKED[dtype]
        # The last byte may have room for more than there are.
        values = unpacked(data, bits)[: None if tensor.shape is None else math.prod(map(int, tensor.shape))]
        zeros = int((values == zero % (1 << bits)).sum())  # a negative number by its two's complement
        tally.add(dtype, values.size, zeros, data.nbytes, is_weight=is_weight)
    else:
        elements = math.prod(map(int, tensor.shape)) if tensor.shape is not None else data.size
        tally.add(dtype, elements, 0, data.nbytes, is_weight=is_weight)

"""`.tflite`: every tensor with a buffer is a constant."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.export import tflite
from edgewright.export.readers.contents import Contents
from edgewright.export.readers.tally import Tally

__all__ = ["read"]

_NUMPY = {
    "float32": "f4", "float16": "f2", "float64": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "bool": "?",
}  # fmt: skip
_HALF_BYTES = {"int4": 2, "int2": 4}  # elements in a byte


def read(path: Path) -> Contents:
    """What a `.tflite` stores."""
    model = tflite.load(path)
    tally = Tally()
    operators: Counter[str] = Counter()
    for graph in model.subgraphs:
        operators.update(tflite.operator_name(model, operator) for operator in graph.operators)
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            # An activation has a buffer too, an empty one.
            if data is not None and len(data):
                _count(tally, tensor, np.asarray(data, dtype=np.uint8))
    declared = tflite.tensors(path)
    return tally.result(declared.inputs, declared.outputs, dict(operators), [f"schema version {model.version}"])


def _count(tally: Tally, tensor: Any, data: np.ndarray) -> None:
    dtype = tflite.DTYPES[tensor.type]
    scaled = tensor.quantization is not None and tensor.quantization.scale is not None
    is_weight = scaled or dtype.startswith("float")
    if dtype in _NUMPY:
        values = data.view(_NUMPY[dtype])
        # A quantized zero is its zero point; weights are symmetric, so it is 0 but for old asymmetric files.
        zero = int(tensor.quantization.zeroPoint[0]) if scaled and len(tensor.quantization.zeroPoint) == 1 else 0
        tally.add(dtype, values.size, int((values == zero).sum()), data.nbytes, is_weight=is_weight)
    else:
        elements = int(np.prod(tensor.shape)) if tensor.shape is not None else data.size * _HALF_BYTES.get(dtype, 1)
        tally.add(dtype, elements, 0, data.nbytes, is_weight=is_weight)

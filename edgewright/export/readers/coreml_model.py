"""`.mlpackage`: what the weight file stores, and what the compressed weights decode to."""

from pathlib import Path

import numpy as np
import torch

from edgewright.errors import ConversionError, InputError
from edgewright.export import mlpackage
from edgewright.export.mil_evaluator import Evaluator
from edgewright.export.mil_operators import MilOperand
from edgewright.export.mil_program import Operation, read_program
from edgewright.export.readers.contents import Contents
from edgewright.export.readers.tally import Tally

__all__ = ["read"]

_COMPRESSED = {
    "constexpr_affine_dequantize": "linear",
    "constexpr_blockwise_shift_scale": "linear, blockwise",
    "constexpr_lut_to_dense": "palette",
    "constexpr_lut_to_sparse": "palette of a sparse tensor",
    "constexpr_sparse_blockwise_shift_scale": "linear, blockwise, of a sparse tensor",
    "constexpr_sparse_to_dense": "sparse",
    "constexpr_cast": "cast",
}
_NO_WEIGHT = {"int32", "int16", "uint16", "bool", "str"}


def read(path: Path) -> Contents:
    """What a Core ML package stores."""
    try:
        program = read_program(path)
    except ConversionError as e:
        raise InputError(f"damaged: {e}") from e
    tally, known = Tally(), dict[str, MilOperand]()
    for operation in program.operations:
        if operation.kind == "const":
            value = operation.operands["val"][0]
            # Scalars are an operator's settings, not weights.
            if isinstance(value, np.ndarray) and value.ndim:
                tally.add_array(value, is_weight=value.dtype.name not in _NO_WEIGHT)
        elif operation.kind in _COMPRESSED:
            _count_compressed(tally, operation, known)
    declared = mlpackage.tensors(path)
    notes = [f"specification version {mlpackage.load(path).specificationVersion}"]
    return tally.result(declared.inputs, declared.outputs, dict(mlpackage.operators(path)), notes)


def _count_compressed(tally: Tally, operation: Operation, known: dict[str, MilOperand]) -> None:
    """Elements are counted where the dense tensor is made, bytes where they are stored."""
    stored = [v for values in operation.operands.values() for v in values if isinstance(v, np.ndarray) and v.ndim]
    dense: torch.Tensor = Evaluator.decode(operation, known)
    # Two results are a mask and its values: another operation makes the dense tensor of them, and is counted.
    is_dense = len(operation.results) == 1
    # uint32 is the shape of the dense tensor.
    names = sorted({array.dtype.name for array in stored if array.dtype.name != "uint32"})
    tally.add(
        f"{_COMPRESSED[operation.kind]} ({', '.join(names)})",
        dense.numel() if is_dense else 0,
        int((dense == 0).sum()) if is_dense else 0,
        operation.stored_bytes,
        is_weight=True,
    )

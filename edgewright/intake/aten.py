"""Which operations of torch's own library (ATen) an internal graph may hold: those that only compute.

Decided by an operation's declared schema, not by a list of names: it changes no operand, returns tensors or sizes, and
takes nothing but tensors, numbers and words of a closed set, so it names no file, device or storage. Imports torch.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["SIZE_FUNCTIONS", "is_pure", "named_operation", "operation_name"]

_NAME = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.(\w+)")
_ARGUMENTS = re.compile(
    r"(Optional\[|List\[)*(Tensor|int|bool|float|number|Device|Layout|MemoryFormat|ScalarType)\]*"  # as the schema says
)
_RESULTS = {"Tensor", "List[Tensor]", "int", "bool", "float", "number"}
# The arguments that are text: each selects one of a few ways to compute.
_WORDS = """
UPLO approximate driver equation indexing interpolation mode norm ord pad_mode padding padding_side reduce rounding_mode
side
"""
# Names with an underscore are torch's inner ones, some of which trust their operands; these do not.
_INNER = """
__and__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _conj
_euclidean_dist _fft_c2c _fft_c2r _fft_r2c _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
_prelu_kernel _safe_softmax _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _trilinear _unsafe_index
_unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm
"""
_OPERATOR = "add and_ eq floordiv ge getitem gt le lt mod mul ne neg not_ or_ pow sub truediv"
_MATH = "ceil floor sqrt trunc"
_TORCH = "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sum"

SIZE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{n}": getattr(operator, n) for n in _OPERATOR.split()},
    **{f"math.{n}": getattr(math, n) for n in _MATH.split()},
    **{f"torch.{n}": getattr(torch, n) for n in _TORCH.split()},
}
"""Arithmetic on sizes, by the name that stands in a graph file."""


def is_pure(operation: Any) -> bool:
    """Whether an operation computes its results from its operands and does nothing else."""
    if not isinstance(operation, torch._ops.OpOverload) or operation.namespace != "aten":
        return False
    schema, name = operation._schema, operation._schema.name.removeprefix("aten::")
    if schema.is_mutable or not schema.returns or (name.startswith("_") and name not in _INNER.split()):
        return False
    return all(str(r.type) in _RESULTS for r in schema.returns) and all(_is_plain(a) for a in schema.arguments)


def _is_plain(argument: Any) -> bool:
    kind = str(argument.type)
    if "str" in kind:
        return argument.name in _WORDS.split()
    return kind == "Optional[Generator]" or _ARGUMENTS.fullmatch(kind) is not None


def operation_name(operation: Any) -> str:
    """``torch.ops.aten.NAME.OVERLOAD``, as `named_operation` reads it."""
    return f"torch.ops.{operation}"


def named_operation(name: str) -> Any:
    """The operation of that name, None where there is none that `is_pure`."""
    parts = _NAME.fullmatch(name)
    packet = getattr(torch.ops.aten, parts[1], None) if parts else None
    operation = getattr(packet, parts[2], None) if parts else None
    return operation if is_pure(operation) else None

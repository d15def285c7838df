"""Which operations of torch's own library (ATen) only compute: an internal graph holds those, a source calls no others.

Decided by an operation's declared schema, not by a list of names: it returns tensors or sizes, and takes nothing but
tensors, numbers and words of a closed set, so it names no file, process or storage. In a graph it changes no operand
either. Imports torch.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["SIZE_FUNCTIONS", "computes", "is_pure", "named_operation", "operation_name", "reaches_outside"]

_NAME = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.(\w+)")
_ARGUMENTS = re.compile(
    r"(Optional\[|List\[)*(Tensor|int|bool|float|number|Device|Layout|MemoryFormat|ScalarType)\]*"  # as the schema says
)
_RESULTS = {"Tensor", "List[Tensor]", "int", "bool", "float", "number"}
# The arguments that are text: each selects one of a few ways to compute.
_WORDS = """
UPLO approximate driver equation indexing interpolation mode norm ord p pad_mode padding padding_side reduce
rounding_mode side
"""
# Names with an underscore are torch's inner ones, some of which trust their operands; these do not.
_INNER = """
__and__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _conj
_euclidean_dist _fft_c2c _fft_c2r _fft_r2c _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
_prelu_kernel _safe_softmax _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _trilinear _unsafe_index
_unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm
"""
# Of the inner ones these, too, look at their operands; a program may call them, and has no graph then.
_OF_PROGRAMS = """
_addmm_activation _aminmax _batch_norm_with_update _batch_norm_with_update_functional _conj_physical _convolution
_convolution_mode _embedding_bag _fused_rms_norm _grouped_mm _int_mm _is_all_true _is_any_true _linalg_det
_linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd _local_scalar_dense _logcumsumexp _masked_softmax
_native_batch_norm_legit_functional _native_multi_head_attention _neg_view _pad_circular _pad_enum _pdist_forward
_scaled_dot_product_attention_math _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
_shape_as_tensor _sparse_mm _stack _transformer_encoder_layer_fwd _unique2 _weight_int8pack_mm _weight_norm_interface
"""
# What only asserts returns nothing, and takes the text of its error.
_ASSERTING = """
_assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _functional_assert_scalar
_functional_sym_constrain_range _functional_sym_constrain_range_for_size sym_constrain_range
sym_constrain_range_for_size
"""
# These make a tensor of a shape that they do not hold against the memory behind it.
_UNCHECKED = re.compile(
    r"_sparse_\w+_unsafe|_reshape_alias(_copy)?|_nested_view_from_\w+|_nested_tensor_from_\w+|set_?"
)
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
    return not operation._schema.is_mutable and _is_of_tensors(operation, _INNER)


def computes(operation: Any) -> bool:
    """Whether a program may call an operation: it computes or asserts, and changes its operands at most."""
    if not isinstance(operation, torch._ops.OpOverload) or operation.namespace not in {"aten", "prims"}:
        return False
    return _short_name(operation) in _ASSERTING.split() or _is_of_tensors(operation, _INNER + _OF_PROGRAMS)


def reaches_outside(name: str) -> bool:
    """Whether an operation of that name, of any overload, takes a file's name or a storage, or trusts its operands.

    What is not an operation of ATen does not: it is a name of somebody else's.
    """
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return False
    arguments = [a for overload in packet.overloads() for a in getattr(packet, overload)._schema.arguments]
    outside = any("file" in a.name or str(a.type) in {"Storage", "Stream"} for a in arguments)
    return outside or _UNCHECKED.fullmatch(name) is not None


def _short_name(operation: Any) -> str:
    return str(operation._schema.name.rpartition("::")[2])


def _is_of_tensors(operation: Any, inner: str) -> bool:
    """Whether an operation takes and returns nothing else; ``inner`` names those with an underscore that may."""
    schema, name = operation._schema, _short_name(operation)
    if _UNCHECKED.fullmatch(name) or not schema.returns or (name.startswith("_") and name not in inner.split()):
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

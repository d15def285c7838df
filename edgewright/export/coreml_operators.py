"""Torch operations that coremltools 9.0 converts to something else, converted exactly. Runs in a child process.

Core ML's ``inverse`` is 1 / (x + epsilon), its ``rsqrt`` 1 / sqrt(x + epsilon) and its ``log`` log(x + epsilon);
coremltools leaves the epsilons at their defaults, 1e-4, 1e-12 and 1e-45, though torch adds nothing
(https://github.com/apple/coremltools/issues/2773; mended in 9.1 for the first). A rounded division of whole numbers is
whole in torch, and real there. RMSNorm is scaled by the largest value there, for half precision, and its epsilon is
not: beside small activations it was lost, and a row of zeros became NaN. An infinite number is 3.4e38 there, so that
a softmax over nothing but minus infinity is even, and NaN in torch. A constant that is NaN stopped it.
"""

import math
from typing import Any

import numpy as np
import torch

__all__ = ["convert_exactly"]

# What norms add before an inverse square root; beside it, 1e-12 is lost in rounding.
_LOST_BESIDE = 9e-7
_FLOAT32_EPSILON = 2.0**-23  # torch's epsilon where RMSNorm names none
_MIN_NORMAL_HALF = 2.0**-14


def convert_exactly() -> None:
    """Put exact conversions in the place of coremltools' own, for this process."""
    from coremltools.converters.mil import Builder, register_torch_op
    from coremltools.converters.mil.frontend.torch import ops, torchscript_utils
    from coremltools.converters.mil.frontend.torch.ops import div as own_div
    from coremltools.converters.mil.mil import types

    # The module asks torch.equal, for which a constant that holds NaN is never the one that was traced.
    vars(torchscript_utils)["torch"] = _TorchWhereNanEqualsNan()
    own_constant: Any = vars(ops)["_construct_constant"]

    def constant(value: Any, name: str) -> Any:
        is_infinite = isinstance(value, float) and math.isinf(value)
        return Builder.const(val=np.float32(value), name=name) if is_infinite else own_constant(value, name)

    vars(ops)["_construct_constant"] = constant

    def real(value: Any) -> Any:
        return Builder.cast(x=value, dtype="fp32") if types.is_int(value.dtype) else value

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def div(context: Any, node: Any) -> None:
        own_div(context, node)
        is_rounded = len(node.inputs) > 2 and context[node.inputs[2]] is not None
        if is_rounded and all(types.is_int(context[name].dtype) for name in node.inputs[:2]):
            whole = Builder.cast(x=context[node.name], dtype="int32")
            context.add(whole, torch_name=node.name, override=True)

    @register_torch_op(override=True, torch_alias=["prod.dim_int"])  # type: ignore[untyped-decorator]
    def prod(context: Any, node: Any) -> None:
        value, *where = (context[name] for name in node.inputs if context[name] is not None)
        has_axis = len(where) > 1 and where[0].val is not None
        axes, keeps = ([int(where[0].val)], bool(where[1].val)) if has_axis else (None, False)
        context.add(Builder.reduce_prod(x=value, axes=axes, keep_dims=keeps, name=node.name))

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def reciprocal(context: Any, node: Any) -> None:
        context.add(Builder.real_div(x=1.0, y=real(context[node.inputs[0]]), name=node.name))

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def rms_norm(context: Any, node: Any) -> None:
        x, shape, weight, given = (context[name] for name in node.inputs[:4])
        epsilon = _FLOAT32_EPSILON if given is None or given.val is None else float(given.val)
        axes = list(range(-len(shape.val), 0))
        largest = Builder.reduce_max(x=Builder.abs(x=x), axes=axes, keep_dims=True)
        # Neither the squares nor epsilon leave half precision: all are at most 1.
        scale = Builder.maximum(x=largest, y=max(epsilon**0.5, _MIN_NORMAL_HALF))
        scaled = Builder.real_div(x=x, y=scale)
        mean = Builder.reduce_mean(x=Builder.square(x=scaled), axes=axes, keep_dims=True)
        # The root first: epsilon itself may lie below what half precision keeps exactly, 2^-14.
        added = Builder.square(x=Builder.real_div(x=epsilon**0.5, y=scale))
        root = Builder.sqrt(x=Builder.add(x=mean, y=added))
        if weight is None:
            context.add(Builder.real_div(x=scaled, y=root, name=node.name))
        else:
            context.add(Builder.mul(x=Builder.real_div(x=scaled, y=root), y=weight, name=node.name))

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def log(context: Any, node: Any) -> None:
        context.add(Builder.log(x=real(context[node.inputs[0]]), epsilon=0.0, name=node.name))

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def rsqrt(context: Any, node: Any) -> None:
        value = real(context[node.inputs[0]])
        if _is_kept_from_zero(value):  # one operator, and what coremltools fuses to a norm
            context.add(Builder.rsqrt(x=value, name=node.name))
        else:
            context.add(Builder.real_div(x=1.0, y=Builder.sqrt(x=value), name=node.name))


class _TorchWhereNanEqualsNan:
    """For the converter's question whether a constant is still the one that was traced."""

    @staticmethod
    def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
        return one.shape == other.shape and bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _is_kept_from_zero(value: Any) -> bool:
    if value.op is None or value.op.op_type != "add":
        return False
    added = [side.val for side in (value.op.x, value.op.y) if side.val is not None]
    return any(part.size and float(part.min()) >= _LOST_BESIDE for part in added)

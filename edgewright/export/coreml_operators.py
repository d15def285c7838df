"""Torch operations that coremltools 9.0 converts to something else, converted exactly. Runs in a child process.

Core ML's ``inverse`` is 1 / (x + epsilon) and its ``rsqrt`` 1 / sqrt(x + epsilon); coremltools leaves the epsilons at
their defaults, 1e-4 and 1e-12, though torch adds nothing
(https://github.com/apple/coremltools/issues/2773; mended in 9.1 for the first). A rounded division of whole numbers is
whole in torch, and real there.
"""

from typing import Any

__all__ = ["convert_exactly"]

# What norms add before an inverse square root; beside it, 1e-12 is lost in rounding.
_LOST_BESIDE = 9e-7


def convert_exactly() -> None:
    """Put exact conversions in the place of coremltools' own, for this process."""
    from coremltools.converters.mil import Builder, register_torch_op
    from coremltools.converters.mil.frontend.torch.ops import div as own_div
    from coremltools.converters.mil.mil import types

    def real(value: Any) -> Any:
        return Builder.cast(x=value, dtype="fp32") if types.is_int(value.dtype) else value

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def div(context: Any, node: Any) -> None:
        own_div(context, node)
        is_rounded = len(node.inputs) > 2 and context[node.inputs[2]] is not None
        if is_rounded and all(types.is_int(context[name].dtype) for name in node.inputs[:2]):
            whole = Builder.cast(x=context[node.name], dtype="int32")
            context.add(whole, torch_name=node.name, override=True)

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def reciprocal(context: Any, node: Any) -> None:
        context.add(Builder.real_div(x=1.0, y=real(context[node.inputs[0]]), name=node.name))

    @register_torch_op(override=True)  # type: ignore[untyped-decorator]
    def rsqrt(context: Any, node: Any) -> None:
        value = real(context[node.inputs[0]])
        if _is_kept_from_zero(value):  # one operator, and what coremltools fuses to a norm
            context.add(Builder.rsqrt(x=value, name=node.name))
        else:
            context.add(Builder.real_div(x=1.0, y=Builder.sqrt(x=value), name=node.name))


def _is_kept_from_zero(value: Any) -> bool:
    if value.op is None or value.op.op_type != "add":
        return False
    added = [side.val for side in (value.op.x, value.op.y) if side.val is not None]
    return any(part.size and float(part.min()) >= _LOST_BESIDE for part in added)

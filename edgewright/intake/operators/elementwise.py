"""Element by element: arithmetic, comparison, logic, rounding and activation functions.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgewright.intake.builder import Builder, Op, Operand, Result, operand, refuse

__all__ = ["HANDLERS"]

Handler = Callable[[Builder, Op], Result]


def _plain(function: Callable[..., Any]) -> Handler:
    """An operator that is one torch function of all its inputs."""

    def handler(b: Builder, op: Op) -> Result:
        return b.call(function, *(operand(op, i) for i in range(len(op.inputs))))

    return handler


def _layer(make: Callable[[Op], nn.Module]) -> Handler:
    """An activation, kept as a layer."""

    def handler(b: Builder, op: Op) -> Result:
        return b.module(
            (op.name or op.outputs[0]).strip("/").replace("/", "_").replace(".", "_"), make(op), operand(op, 0)
        )

    return handler


def _folded(function: Callable[..., Any]) -> Handler:
    """An operator of any number of inputs: applied from left to right."""

    def handler(b: Builder, op: Op) -> Result:
        result = operand(op, 0)
        for index in range(1, len(op.inputs)):
            result = b.call(function, result, operand(op, index))
        return result

    return handler


# uint8 is not among them: torch computes with it, and wraps as ONNX does.
_UNSIGNED = {torch.uint16, torch.uint32, torch.uint64}
_SIGN = -(1 << 63)


def _widened(handler: Handler) -> Handler:
    """Unsigned integers, which torch stores but hardly computes with: computed in int64, given back as they were.

    Sums and products of uint64 wrap alike in int64; its order does once both signs are flipped; its quotients and
    right shifts have a way of their own.
    """

    def wide_handler(b: Builder, op: Op) -> Result:
        dtypes = {b.dtype(operand(op, i)) for i in range(len(op.inputs))}
        unsigned = dtypes & _UNSIGNED
        if not unsigned:
            return handler(b, op)
        (dtype,) = unsigned
        wide = dtype == torch.uint64
        flip = wide and op.kind in _ORDERED
        long = [b.call(torch.Tensor.to, operand(op, i), torch.int64) for i in range(len(op.inputs))]
        long = [b.call(torch.bitwise_xor, v, _SIGN) if flip else v for v in long]
        if wide and (op.kind in {"Div", "Mod"} or op.get("direction") == "RIGHT"):
            op.get("fmod")  # signs are all that it changes
            result: Result = _UNSIGNED_64[op.kind](b, *long)
        else:
            result = handler(b, replace(op, inputs=tuple(long)))
        if not isinstance(result, (torch.Tensor, torch.fx.Node)) or b.dtype(result) == torch.bool:
            return result
        result = b.call(torch.bitwise_xor, result, _SIGN) if flip else result
        return b.call(torch.Tensor.to, result, dtype)

    return wide_handler


def _quotient_64(b: Builder, x: Operand, y: Operand) -> Operand:
    """``x / y`` of unsigned numbers in the bits of int64 (Warren, "Hacker's Delight", section 9-3).

    Half of ``x`` is divided, which is never negative; twice that quotient falls short by one at most.
    """
    # Halved, x is not negative as int64; a divisor below 2^63 is not, either.
    half = b.call(torch.div, _shifted_right_64(b, x, torch.ones((), dtype=torch.int64)), y, rounding_mode="trunc")
    guess = b.call(torch.bitwise_left_shift, half, 1)
    rest = b.call(torch.sub, x, b.call(torch.mul, guess, y))
    exact = b.call(torch.add, guess, b.call(torch.Tensor.to, _not_below_64(b, rest, y), torch.int64))
    # A divisor of 2^63 or more, negative as int64, goes into x once or not at all.
    large = b.call(torch.Tensor.to, _not_below_64(b, x, y), torch.int64)
    return b.call(torch.where, b.call(torch.lt, y, 0), large, exact)


def _remainder_64(b: Builder, x: Operand, y: Operand) -> Operand:
    return b.call(torch.sub, x, b.call(torch.mul, _quotient_64(b, x, y), y))


def _shifted_right_64(b: Builder, x: Operand, count: Operand) -> Operand:
    """One step without the sign, then the rest of them, which find no sign to carry along."""
    once = b.call(torch.bitwise_and, b.call(torch.bitwise_right_shift, x, 1), ~_SIGN)
    # Shifts by 64 and more are undefined in C; after one step, 63 more leave nothing.
    rest = b.call(torch.bitwise_right_shift, once, b.call(torch.clamp, b.call(torch.sub, count, 1), 0, 63))
    return b.call(torch.where, b.call(torch.eq, count, 0), x, rest)


def _not_below_64(b: Builder, x: Operand, y: Operand) -> Operand:
    return b.call(torch.ge, b.call(torch.bitwise_xor, x, _SIGN), b.call(torch.bitwise_xor, y, _SIGN))


_UNSIGNED_64: dict[str, Callable[[Builder, Operand, Operand], Operand]] = {
    "Div": _quotient_64,
    "Mod": _remainder_64,
    "BitShift": _shifted_right_64,
}
_ORDERED = {"Max", "Min", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}


def _legacy_broadcast(function: Callable[..., Any]) -> Handler:
    """Arithmetic; before opset 7 ``axis`` told where the second operand's axes stand."""

    def handler(b: Builder, op: Op) -> Result:
        left, right = operand(op, 0), operand(op, 1)
        if op.opset < 7 and op.get("broadcast", 0) and op.get("axis") is not None:
            # `axis` names the left operand's axis with which the right one begins; 1s behind it align them.
            for _ in range(b.rank(left) - op.get("axis") - b.rank(right)):
                right = b.call(torch.unsqueeze, right, -1)
        return b.call(function, left, right)

    return handler


def div(b: Builder, op: Op) -> Result:
    """Div: integers are divided towards zero."""
    left, right = operand(op, 0), operand(op, 1)
    if b.dtype(left).is_floating_point:
        return b.call(torch.div, left, right)
    return b.call(torch.div, left, right, rounding_mode="trunc")


def mod(b: Builder, op: Op) -> Result:
    """Mod: the divisor's sign, or with fmod=1 the dividend's."""
    return b.call(torch.fmod if op.get("fmod", 0) else torch.remainder, operand(op, 0), operand(op, 1))


def power(b: Builder, op: Op) -> Result:
    """Pow: the result has the base's type."""
    base, exponent = operand(op, 0), operand(op, 1)
    if isinstance(exponent, torch.Tensor) and exponent.numel() == 1 and exponent.ndim == 0:
        number = exponent.item()
        if b.dtype(base).is_floating_point:
            return b.call(torch.pow, base, number)
    result = b.call(torch.pow, base, exponent)
    # torch.pow of integers to real exponents gives real numbers.
    return result if b.dtype(result) == b.dtype(base) else b.call(torch.Tensor.to, result, b.dtype(base))


def clip(b: Builder, op: Op) -> Result:
    """Clip: limits as attributes before opset 11, as inputs since."""
    x = operand(op, 0)
    low, high = (op.get("min"), op.get("max")) if op.opset < 11 else (op.input(1), op.input(2))
    # 0-d and 1-element limits as numbers: torch.clamp takes either two numbers or two tensors.
    low, high = (v.item() if isinstance(v, torch.Tensor) and v.numel() == 1 else v for v in (low, high))
    # ReLU6 is a layer that platforms fuse and quantize.
    if low == 0 and high == 6 and b.dtype(x).is_floating_point:
        return b.module(_name(op), nn.ReLU6(), x)
    if not isinstance(low, torch.fx.Node) and not isinstance(high, torch.fx.Node):
        return x if low is None and high is None else b.call(torch.clamp, x, low, high)
    # maximum, then minimum: where the limits cross, ONNX gives the upper one.
    x = x if low is None else b.call(torch.maximum, x, _like(b, x, low))
    return x if high is None else b.call(torch.minimum, x, _like(b, x, high))


def cast(b: Builder, op: Op) -> Result:
    """Cast and CastLike between numbers and booleans."""
    x = operand(op, 0)
    if op.kind == "CastLike":
        return b.call(torch.Tensor.to, x, b.dtype(operand(op, 1)))
    wanted = op.get("to")
    if not isinstance(wanted, torch.dtype):
        raise refuse(op, f"type {wanted}")
    return x if b.dtype(x) == wanted else b.call(torch.Tensor.to, x, wanted)


def prelu(b: Builder, op: Op) -> Result:
    """PRelu: a layer where the slope is one number for each channel."""
    x, slope = operand(op, 0), operand(op, 1)
    channels = b.shape(x)[1] if b.rank(x) > 1 else 1
    # (C, 1, ..., 1) behind the batch axis, or one number for all.
    one_each = isinstance(slope, torch.Tensor) and slope.numel() in {1, channels} and b.rank(x) == slope.ndim + 1
    if one_each and isinstance(slope, torch.Tensor) and (slope.numel() == 1 or slope.shape[0] == channels):
        layer = nn.PReLU(slope.numel(), dtype=slope.dtype)
        layer.load_state_dict({"weight": slope.detach().clone().reshape(-1)})
        return b.module(_name(op), layer, x)
    negative = b.call(torch.mul, slope, x)
    zero = torch.zeros((), dtype=b.dtype(x))
    return b.call(torch.where, b.call(torch.lt, x, zero), negative, x)


def gelu(op: Op) -> nn.Module:
    """Gelu, exact or by tanh."""
    return nn.GELU(approximate=op.get("approximate", "none"))


def hard_sigmoid(b: Builder, op: Op) -> Result:
    """HardSigmoid: max(0, min(1, alpha x + beta))."""
    x, alpha, beta = operand(op, 0), op.get("alpha", 0.2), op.get("beta", 0.5)
    # Exporters write the sixth of Hardsigmoid as 0.16666667.
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return b.module(_name(op), nn.Hardsigmoid(), x)
    return b.call(torch.clamp, b.call(torch.add, b.call(torch.mul, x, alpha), beta), 0.0, 1.0)


def thresholded_relu(b: Builder, op: Op) -> Result:
    """ThresholdedRelu: x where x > alpha, else 0."""
    return b.call(functional.threshold, operand(op, 0), op.get("alpha", 1.0), 0.0)


def shrink(b: Builder, op: Op) -> Result:
    """Shrink: towards zero by bias outside [-lambd, lambd], zero inside."""
    x, bias, lambd = operand(op, 0), op.get("bias", 0.0), op.get("lambd", 0.5)
    zero = torch.zeros((), dtype=b.dtype(x))
    below = b.call(torch.where, b.call(torch.lt, x, -lambd), b.call(torch.add, x, bias), zero)
    return b.call(torch.where, b.call(torch.gt, x, lambd), b.call(torch.sub, x, bias), below)


def softmax(b: Builder, op: Op) -> Result:
    """Softmax, LogSoftmax and Hardmax; before opset 13 over all axes from ``axis`` on, taken as one."""
    x, modern = operand(op, 0), op.opset >= 13
    axis = op.get("axis", -1 if modern else 1) % max(b.rank(x), 1)
    kinds: dict[str, Callable[[int], nn.Module]] = {"Softmax": nn.Softmax, "LogSoftmax": nn.LogSoftmax}
    if not modern and axis != b.rank(x) - 1:
        flat = b.call(torch.flatten, x, axis)
        y = _normalized(b, op, flat, axis, kinds)
        return b.call(torch.reshape, y, [s if isinstance(s, int) else -1 for s in b.shape(x)])
    return _normalized(b, op, x, axis, kinds)


def _normalized(b: Builder, op: Op, x: Operand, axis: int, kinds: dict[str, Callable[[int], nn.Module]]) -> Operand:
    if op.kind in kinds:
        return b.module(_name(op), kinds[op.kind](axis), x)
    # Hardmax: argmax gives the first of equal maxima, as ONNX has it.
    first = b.call(torch.argmax, x, axis, True)
    size = b.shape(x)[axis]
    if not isinstance(size, int):
        raise refuse(op, "over the batch axis")
    positions = torch.arange(size).reshape([-1 if i == axis else 1 for i in range(b.rank(x))])
    return b.call(torch.Tensor.to, b.call(torch.eq, first, positions), b.dtype(x))


def where(b: Builder, op: Op) -> Result:
    """Where."""
    return b.call(torch.where, operand(op, 0), operand(op, 1), operand(op, 2))


def mean(b: Builder, op: Op) -> Result:
    """Mean of any number of inputs."""
    total = _folded(torch.add)(b, op)
    return b.call(torch.div, total, len(op.inputs))


def is_inf(b: Builder, op: Op) -> Result:
    """IsInf, of one sign when asked."""
    x, negative, positive = operand(op, 0), op.get("detect_negative", 1), op.get("detect_positive", 1)
    result = b.call(torch.isinf, x)
    if not negative:
        result = b.call(torch.logical_and, result, b.call(torch.gt, x, 0))
    return result if positive else b.call(torch.logical_and, result, b.call(torch.lt, x, 0))


def bit_shift(b: Builder, op: Op) -> Result:
    """BitShift."""
    function = torch.bitwise_left_shift if op.get("direction") == "LEFT" else torch.bitwise_right_shift
    return b.call(function, operand(op, 0), operand(op, 1))


def swish(b: Builder, op: Op) -> Result:
    """Swish: x sigmoid(alpha x)."""
    x, alpha = operand(op, 0), op.get("alpha", 1.0)
    if alpha == 1:
        return b.module(_name(op), nn.SiLU(), x)
    return b.call(torch.mul, x, b.call(torch.sigmoid, b.call(torch.mul, x, alpha)))


def _like(b: Builder, x: Operand, limit: Any) -> Any:
    return limit if isinstance(limit, torch.fx.Node) else torch.tensor(limit, dtype=b.dtype(x))


def _name(op: Op) -> str:
    return (op.name or op.outputs[0]).strip("/").replace("/", "_").replace(".", "_")


_PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "IsNaN": torch.isnan, "Log": torch.log,
    "Neg": torch.neg, "Reciprocal": torch.reciprocal, "Round": torch.round, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Sqrt": torch.sqrt, "Tan": torch.tan, "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor, "GreaterOrEqual": torch.ge, "LessOrEqual": torch.le,
    "Softsign": functional.softsign,
}  # fmt: skip
_LEGACY: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Greater": torch.gt, "Less": torch.lt,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip
_LAYERS: dict[str, Callable[[Op], nn.Module]] = {
    "Relu": lambda _: nn.ReLU(),
    "Sigmoid": lambda _: nn.Sigmoid(),
    "Tanh": lambda _: nn.Tanh(),
    "LeakyRelu": lambda op: nn.LeakyReLU(op.get("alpha", 0.01)),
    "Elu": lambda op: nn.ELU(op.get("alpha", 1.0)),
    "Celu": lambda op: nn.CELU(op.get("alpha", 1.0)),
    "HardSwish": lambda _: nn.Hardswish(),
    "Mish": lambda _: nn.Mish(),
    # Linear from 20 on, where what is left out (e^-20) is below the step of float32; exp(x) alone would overflow.
    "Softplus": lambda _: nn.Softplus(),
    "Gelu": gelu,
}


def selu(b: Builder, op: Op) -> Result:
    """Selu: gamma (alpha (exp(x) - 1)) below zero, gamma x above."""
    x = operand(op, 0)
    alpha, gamma = op.get("alpha", 1.67326319217681884765625), op.get("gamma", 1.05070102214813232421875)
    return b.call(torch.mul, b.call(functional.elu, x, alpha), gamma)


_OF_UNSIGNED = """
Add Sub Mul Div Mod Max Min Greater Less GreaterOrEqual LessOrEqual BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot
Equal Sum
"""

_HANDLERS: dict[str, Handler] = {
    **{kind: _plain(function) for kind, function in _PLAIN.items()},
    **{kind: _legacy_broadcast(function) for kind, function in _LEGACY.items()},
    **{kind: _layer(make) for kind, make in _LAYERS.items()},
    "Sum": _folded(torch.add),
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Mean": mean,
    "Div": div,
    "Mod": mod,
    "Pow": power,
    "Clip": clip,
    "Cast": cast,
    "CastLike": cast,
    "PRelu": prelu,
    "Selu": selu,
    "HardSigmoid": hard_sigmoid,
    "ThresholdedRelu": thresholded_relu,
    "Shrink": shrink,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Hardmax": softmax,
    "Where": where,
    "IsInf": is_inf,
    "BitShift": bit_shift,
    "Swish": swish,
}

HANDLERS: dict[str, Handler] = {
    kind: _widened(handler) if kind in _OF_UNSIGNED.split() else handler for kind, handler in _HANDLERS.items()
}

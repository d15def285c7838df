"""What transformers are made of, beside matrices: attention, root-mean-square and unit normalization.

Each handler follows the operator of the same name in the ONNX operator specification (ai.onnx).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from edgewright.intake.builder import Argument, Builder, Op, Operand, Result, is_static, operand, refuse
from edgewright.intake.operators.shape import reshaped

__all__ = ["HANDLERS"]


def rms_normalization(b: Builder, op: Op) -> Result:
    """RMSNormalization (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019)."""
    x, scale = operand(op, 0), operand(op, 1)
    rank = b.rank(x)
    axes = list(range(op.get("axis", -1) % rank, rank))
    dtype = b.dtype(x)
    # The specification computes in float32 (stash_type): the squares of half precision overflow at 256.
    wide = x if dtype in {torch.float32, torch.float64} else b.call(torch.Tensor.to, x, torch.float32)
    square = b.call(torch.mean, b.call(torch.mul, wide, wide), axes, True)
    inverse = b.call(torch.rsqrt, b.call(torch.add, square, op.get("epsilon", 1e-5)))
    y = b.call(torch.mul, wide, inverse)
    y = y if b.dtype(y) == dtype else b.call(torch.Tensor.to, y, dtype)
    return b.call(torch.mul, y, scale)


def lp_normalization(b: Builder, op: Op) -> Result:
    """LpNormalization: an axis of unit length; one of zeros stays."""
    x, axis = operand(op, 0), op.get("axis", -1)
    if op.get("p", 2) == 1:
        size = b.call(torch.sum, b.call(torch.abs, x), [axis], True)
    else:
        size = b.call(torch.sqrt, b.call(torch.sum, b.call(torch.mul, x, x), [axis], True))
    # x / 1 where the size is zero: 0 / 0 would be NaN.
    one = torch.ones((), dtype=b.dtype(x))
    return b.call(torch.div, x, b.call(torch.where, b.call(torch.eq, size, 0), one, size))


def mean_variance_normalization(b: Builder, op: Op) -> Result:
    """MeanVarianceNormalization."""
    x, axes = operand(op, 0), list(op.get("axes") or [0, 2, 3])
    centred = b.call(torch.sub, x, b.call(torch.mean, x, axes, True))
    deviation = b.call(torch.sqrt, b.call(torch.mean, b.call(torch.mul, centred, centred), axes, True))
    # The specification's own body adds 1e-9 to the deviation, not to the variance.
    return b.call(torch.div, centred, b.call(torch.add, deviation, 1e-9))


def attention(b: Builder, op: Op) -> Result:
    """Attention: softmax(scale Q K' + mask) V, with shared key heads, a cache, soft caps and causal masks."""
    query, key, value = (operand(op, i) for i in range(3))
    # (N, length, heads * size), or (N, heads, length, size).
    flat = b.rank(query) == 3
    if flat:
        query = _heads(b, op, query, op.get("q_num_heads"))
        key, value = (_heads(b, op, t, op.get("kv_num_heads")) for t in (key, value))
    past_key, past_value = op.input(4), op.input(5)
    past = 0
    if isinstance(past_key, (torch.Tensor, fx.Node)) and isinstance(past_value, (torch.Tensor, fx.Node)):
        past = b.shape(past_key)[2]
        key, value = b.call(torch.cat, [past_key, key], 2), b.call(torch.cat, [past_value, value], 2)
    # What is handed to the next call's cache: before heads are repeated.
    present = key, value
    # Grouped-query attention: each head of the keys serves several of the queries.
    repeats = b.shape(query)[1] // b.shape(key)[1]
    if repeats > 1:
        key, value = (b.call(torch.repeat_interleave, t, repeats, 1) for t in (key, value))
    # Both factors take the root of the scale, so that products in half precision stay small.
    scale = op.get("scale") or 1 / math.sqrt(b.shape(query)[3])
    root = torch.tensor(math.sqrt(scale)).to(b.dtype(query)).item()  # the specification rounds it to the input's type
    transposed = b.call(torch.transpose, b.call(torch.mul, key, root), 2, 3)
    scores = b.call(torch.matmul, b.call(torch.mul, query, root), transposed)
    y, seen = _attended(b, op, scores, value, past)
    if flat:
        y = b.call(torch.permute, y, [0, 2, 1, 3])
        y = reshaped(b, op, y, [*b.shape(y)[:2], b.shape(y)[2] * b.shape(y)[3]])
    return (y, *present, seen)[: len(op.outputs)]


def _heads(b: Builder, op: Op, x: Operand, count: int) -> Operand:
    """(N, length, heads * size) -> (N, heads, length, size)."""
    rows, length, width = b.shape(x)
    return b.call(torch.permute, reshaped(b, op, x, [rows, length, count, width // count]), [0, 2, 1, 3])


def _attended(b: Builder, op: Op, scores: Operand, value: Operand, past: Any) -> tuple[Operand, Operand]:
    """The weighted values, and the scores at the stage that the optional output asks for."""
    cap = op.get("softcap", 0.0)
    bias = _bias(b, op, scores, past)
    capped = scores if not cap else b.call(torch.mul, b.call(torch.tanh, b.call(torch.div, scores, cap)), cap)
    masked = capped if bias is None else b.call(torch.add, capped, bias)
    # qk_matmul_output_mode counts these stages.
    stages = [scores, capped, masked]
    # Rows whose greatest bias is minus infinity; where none can be, the graph is spared the test.
    empty = None if bias is None else b.call(torch.eq, b.call(torch.amax, bias, [-1], True), -float("inf"))
    if empty is not None and not (isinstance(empty, torch.Tensor) and not empty.any()):
        # A row in which nothing is allowed gives zeros, not NaN.
        masked = b.call(torch.where, empty, torch.zeros((), dtype=b.dtype(masked)), masked)
    else:
        empty = None
    dtype = b.dtype(masked)
    precise = op.get("softmax_precision")
    wide = masked if precise is None else b.call(torch.Tensor.to, masked, torch.float32)
    weights = _softmax(b, wide)
    weights = weights if b.dtype(weights) == dtype else b.call(torch.Tensor.to, weights, dtype)
    if empty is not None:
        weights = b.call(torch.where, empty, torch.zeros((), dtype=dtype), weights)
    stages.append(weights)
    return b.call(torch.matmul, weights, value), stages[op.get("qk_matmul_output_mode", 0)]


def _softmax(b: Builder, scores: Operand) -> Operand:
    """Over the keys. In half precision each step is rounded, as the specification's own function body does."""
    if b.dtype(scores) not in {torch.float16, torch.bfloat16}:
        return b.call(torch.softmax, scores, -1)
    powers = b.call(torch.exp, b.call(torch.sub, scores, b.call(torch.amax, scores, [-1], True)))
    return b.call(torch.div, powers, b.call(torch.sum, powers, [-1], True))


def _bias(b: Builder, op: Op, scores: Operand, past: Any) -> Operand | None:
    """What is added to the scores: the mask, and minus infinity where position or padding forbids a look."""
    bias = _mask(b, op, scores)
    allowed = _allowed(b, op, scores, past)
    if allowed is None:
        return bias
    dtype = b.dtype(scores)
    zero, lowest = torch.zeros((), dtype=dtype), torch.tensor(-float("inf"), dtype=dtype)
    positions = b.call(torch.where, allowed, zero, lowest)
    return positions if bias is None else b.call(torch.add, bias, positions)


def _mask(b: Builder, op: Op, scores: Operand) -> Operand | None:
    """The mask as numbers to be added, padded to the length of the keys."""
    mask: Argument = op.input(3)
    if not isinstance(mask, (torch.Tensor, fx.Node)):
        return None
    dtype = b.dtype(scores)
    if b.dtype(mask) == torch.bool:
        zero, lowest = torch.zeros((), dtype=dtype), torch.tensor(-float("inf"), dtype=dtype)
        mask = b.call(torch.where, mask, zero, lowest)
    missing = b.shape(scores)[-1] - b.shape(mask)[-1]
    return b.call(functional.pad, mask, [0, missing], "constant", -float("inf")) if missing else mask


def _allowed(b: Builder, op: Op, scores: Operand, past: Any) -> Operand | None:
    """(queries, keys), or (N, 1, queries, keys) where lengths differ: which query may see which key, None for all."""
    left, right = op.get("left_window_size", -1), op.get("right_window_size", -1)
    lengths, causal = op.input(6), bool(op.get("is_causal", 0))
    rows, columns = b.shape(scores)[-2:]
    known = isinstance(lengths, (torch.Tensor, fx.Node))
    if not known and not causal and left < 0 and right < 0:
        return None
    if not is_static([rows, columns, past]):
        raise refuse(op, "is_causal, windows or nonpad_kv_seqlen with free sizes")
    keys = torch.arange(columns)
    # A query's place among the keys: those of a cache come before it.
    first: Any = past
    if isinstance(lengths, (torch.Tensor, fx.Node)):
        lengths = b.call(torch.reshape, lengths, [-1, 1, 1, 1])
        # Without padding the last query stands at the last key of its row.
        first = b.call(torch.sub, lengths, rows)
    # (queries, keys): how far a key lies ahead of a query; negative behind it.
    ahead = b.call(torch.sub, keys, b.call(torch.add, torch.arange(rows).reshape(rows, 1), first))
    limits = [(torch.le, 0)] * causal + [(torch.ge, -left)] * (left >= 0) + [(torch.le, right)] * (right >= 0)
    tests = [b.call(compare, ahead, limit) for compare, limit in limits]
    if isinstance(lengths, (torch.Tensor, fx.Node)):
        tests.append(b.call(torch.gt, lengths, keys))
    allowed = tests[0]
    for test in tests[1:]:
        allowed = b.call(torch.logical_and, allowed, test)
    return allowed


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "RMSNormalization": rms_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "Attention": attention,
}

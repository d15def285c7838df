"""Which operators of a `.tflite` the GPU delegate leaves to the CPU.

LiteRT's Python analyzer has a GPU check that is not compiled in: it finds every model compatible. So the operators are
compared with those that the delegate's own check accepts, ``CheckGpuDelegateCompatibility`` in
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/tools/versioning/gpu_compatibility.cc.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from edgewright.export import tflite

__all__ = ["gpu_report"]

_ACCEPTED = """
ABS ADD ADD_N ATAN2 AVERAGE_POOL_2D BATCH_MATMUL CAST CEIL CONCATENATION CONV_2D COS CUMSUM DENSIFY DEPTHWISE_CONV_2D
DEPTH_TO_SPACE DEQUANTIZE DIV ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GELU
GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGISTIC LSTM MAXIMUM MAX_POOL_2D MEAN
MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU
RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2 SIGN SIN SLICE SOFTMAX
SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STABLEHLO_CLAMP STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE
TRANSPOSE_CONV
"""
_SUPPORTED = frozenset(_ACCEPTED.split())
_SLICED_RANKS = {"SLICE": (3, 4), "STRIDED_SLICE": (3, 4)}
_NO_KERNEL_DTYPES = {"int64", "float64", "string"}


def gpu_report(path: Path) -> list[str]:
    """One note: that every operator suits the GPU delegate, or which fall back to the CPU, how many, and why.

    The graph alone is judged: a phone's driver may refuse more.
    """
    model = tflite.load(path)
    reasons: Counter[str] = Counter()
    total = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            total += 1
            if reason := _refusal(model, graph, operator):
                reasons[reason] += 1
    if not reasons:
        return [f"GPU delegate: all {total} operators can run there"]
    listed = ", ".join(f"{reason} x {count}" if count > 1 else reason for reason, count in sorted(reasons.items()))
    return [f"GPU delegate: {sum(reasons.values())} of {total} operators fall back to the CPU: {listed}"]


def _refusal(model: Any, graph: Any, operator: Any) -> str | None:
    name = tflite.operator_name(model, operator)
    if name not in _SUPPORTED:
        return name
    operands = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    odd = sorted({tflite.DTYPES[t.type] for t in operands} & _NO_KERNEL_DTYPES)
    if odd:
        return f"{name} on {odd[0]}"
    rank = len(operands[0].shape) if operands and operands[0].shape is not None else 0
    if name in _SLICED_RANKS and rank not in _SLICED_RANKS[name]:
        return f"{name} of rank {rank}"
    return None

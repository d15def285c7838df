"""How large the sum of two neighbouring 8-bit products becomes in a quantized ONNX file, on real rows.

x86 without VNNI multiplies by ``vpmaddubsw``, which adds two products in 16 bits and saturates: a larger sum is cut
off, and the answers differ from those of every other processor. Runs in a child process.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime

__all__ = ["largest_pair_sum", "matrices_of"]

_ROWS = 8
_PRODUCTS = 1 << 22  # of one layer and row; positions are spread over what it computes
Arrays = dict[str, np.ndarray]


class _Layer(NamedTuple):
    node: onnx.NodeProto
    left: str
    right: str


def largest_pair_sum(model: onnx.ModelProto, rows: Iterable[Arrays]) -> int:
    """The largest size of such a sum in the layers that multiply 8-bit numbers, over a few rows and up to 2^22 products
    of each layer; 0 where there is no such layer.

    A depthwise convolution of one filter for each channel is none: its kernels add in 32 bits.
    """
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = list(_layers(model))
    shown = sorted({name for layer in layers for name in (layer.left, layer.right) if name not in weights})
    if not layers:
        return 0
    session = _session(model, shown)
    largest = 0
    for _, row in zip(range(_ROWS), rows, strict=False):
        values = weights | dict(zip(shown, session.run(shown, row), strict=True))
        for node, left, right in layers:
            for a, b in _products(node, values[left], values[right]):
                largest = max(largest, _largest(a, b))
    return largest


def _layers(model: onnx.ModelProto) -> Iterator[_Layer]:
    """Each layer of which both operands are stored in 8 bits, and what they are."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in {"Conv", "Gemm", "MatMul"}:
            sides = [made_by.get(name) for name in node.input[:2]]
            if all(side is not None and side.op_type == "DequantizeLinear" for side in sides):
                left, right = (side.input[0] for side in sides if side is not None)
                yield _Layer(node, left, right)


def _session(model: onnx.ModelProto, shown: list[str]) -> onnxruntime.InferenceSession:
    """One that also gives the quantized values, computed in float32 from rounded numbers: exact on any processor."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in shown if name not in known)
    options = onnxruntime.SessionOptions()
    # Else the session would fuse the pairs and multiply in 8 bits, by the very instruction that saturates.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


def matrices_of(node: onnx.NodeProto, weight: np.ndarray) -> list[np.ndarray]:
    """The matrices (K, N) that the kernels for 8-bit numbers make of a layer's constant weight, one for each group of
    a convolution or product of a batch, rows in the order in which they pair them; none where they add in 32 bits."""
    given = _attributes(node)
    match node.op_type:
        case "Gemm":
            return [weight.T if given.get("transB") else weight]
        case "MatMul" if weight.ndim > 1:
            return list(weight.reshape(-1, *weight.shape[-2:]))
        case "Conv" if not _is_depthwise(weight, given.get("group", 1)):
            filters = np.split(weight, given.get("group", 1))
            # (N, channels, *kernel) to (*kernel and channels, N): the kernels take channels last.
            return [np.moveaxis(filter_, 1, -1).reshape(len(filter_), -1).T for filter_ in filters]
    return []


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _is_depthwise(weight: np.ndarray, groups: int) -> bool:
    """One input and one output in each group: several outputs, or one input of a grey picture, are a matrix product."""
    return weight.shape[1] == 1 and len(weight) == groups


def _products(node: onnx.NodeProto, left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The matrices (P, K) by (K, N) that the kernels multiply; the left one unsigned, as x86 takes it."""
    if right.dtype != np.int8:  # kernels for two unsigned operands add in 32 bits
        return
    given = _attributes(node)
    # On x86 signed activations are moved up by 128, since the instruction takes its left operand unsigned.
    left = left.astype(np.int32) + (128 if left.dtype == np.int8 else 0)
    right = right.astype(np.int32)
    match node.op_type:
        case "Gemm":
            yield (left.T if given.get("transA") else left), matrices_of(node, right)[0]
        case "MatMul" if right.ndim == 2:
            yield left.reshape(-1, left.shape[-1]), right
        case "MatMul" if right.ndim > 2 and left.ndim >= 2:
            batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
            lefts = np.broadcast_to(left, (*batch, *left.shape[-2:])).reshape(-1, *left.shape[-2:])
            rights = np.broadcast_to(right, (*batch, *right.shape[-2:])).reshape(-1, *right.shape[-2:])
            yield from zip(lefts, rights, strict=True)
        case "Conv":
            filters = matrices_of(node, right)
            groups = np.split(left[0], len(filters)) if filters else []
            for channels, matrix in zip(groups, filters, strict=True):
                yield _columns(channels, right.shape[2:], given), matrix


def _columns(image: np.ndarray, kernel: tuple[int, ...], given: dict[str, Any]) -> np.ndarray:
    """What a convolution's filter lies on at each position, (P, K), channels last as the kernels take them.

    Padding counts as zeros: what it really holds, the zero point, is no larger than what stands beside it.
    """
    axes = range(len(kernel))
    strides, dilations = (list(given.get(name) or [1] * len(kernel)) for name in ("strides", "dilations"))
    pads = list(given.get("pads") or [0] * 2 * len(kernel))
    extent = [(kernel[i] - 1) * dilations[i] + 1 for i in axes]
    if str(given.get("auto_pad", b"")).find("SAME") >= 0:
        missing = [max((-(-image.shape[1 + i] // strides[i]) - 1) * strides[i] + extent[i] - image.shape[1 + i], 0)
                   for i in axes]  # fmt: skip
        pads = [*(m // 2 for m in missing), *(m - m // 2 for m in missing)]
    padded = np.pad(image, [(0, 0), *((pads[i], pads[i + len(kernel)]) for i in axes)])
    # (channels, *positions, *extent), a view: strides and dilations are picked from it without a copy.
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=tuple(1 + i for i in axes))
    moved = (slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    return np.moveaxis(windows[moved], 0, -1).reshape(-1, int(np.prod(kernel)) * len(image))


def _largest(left: np.ndarray, right: np.ndarray) -> int:
    """The largest size of the sum of two neighbouring products of (P, K) by (K, N)."""
    # An odd one out is paired with zero.
    if left.shape[1] % 2:
        left, right = np.pad(left, [(0, 0), (0, 1)]), np.pad(right, [(0, 1), (0, 0)])
    # A bound on time: each position costs as many products as the weight has numbers.
    count = min(len(left), max(1, _PRODUCTS // max(right.size, 1)))
    largest = 0
    for position in left[np.linspace(0, len(left) - 1, count).astype(int)] if len(left) else ():
        pairs = (position[:, None] * right).reshape(-1, 2, right.shape[1]).sum(axis=1)
        largest = max(largest, int(np.abs(pairs).max(initial=0)))
    return largest

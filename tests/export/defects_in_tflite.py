"""Wrong rewrites of a `.tflite`, each as a converter might make it: (what is wrong, operator, layers) by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgewright.export import tflite

Plant = Callable[[Any], None]


def operators(model: Any, kind: str) -> list[Any]:
    return [o for o in model.subgraphs[0].operators if tflite.operator_name(model, o) == kind]


def tensor(model: Any, operator: Any, at: int) -> Any:
    return model.subgraphs[0].tensors[operator.inputs[at]]


def held(model: Any, operator: Any, at: int) -> np.ndarray:
    found = tensor(model, operator, at)
    dtype = np.dtype(tflite.DTYPES[found.type])
    return np.asarray(model.buffers[found.buffer].data).view(dtype).reshape(tuple(found.shape)).copy()


def put(model: Any, operator: Any, at: int, values: np.ndarray) -> None:
    """A constant of this operator alone, where others may share the old one."""
    old = tensor(model, operator, at)
    buffer, made = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    made.name, made.type, made.shape = b"planted_%d" % len(model.buffers), old.type, list(values.shape)
    made.buffer, made.hasRank = len(model.buffers), True
    model.buffers.append(buffer)
    model.subgraphs[0].tensors.append(made)
    operator.inputs = [*operator.inputs]
    operator.inputs[at] = len(model.subgraphs[0].tensors) - 1


def become(model: Any, operator: Any, kind: str, options: Any = None) -> None:
    """The same operands, another operation."""
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    operator.opcodeIndex = len(model.operatorCodes)
    model.operatorCodes.append(code)
    operator.builtinOptions = options
    name = type(options).__name__.removesuffix("T") if options is not None else "NONE"
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)


def dropped_bias(model: Any) -> None:
    put(model, operators(model, "FULLY_CONNECTED")[4], 2, np.zeros(12, np.float32))


def wrong_padding_side(model: Any) -> None:
    put(model, operators(model, "PAD")[0], 1, np.array([[0, 0], [0, 2], [0, 2], [0, 0]], np.int32))


def wrong_epsilon(model: Any) -> None:
    operator = next(o for o in operators(model, "ADD") if reads_constant(model, o) and held(model, o, 1).size == 1)
    put(model, operator, 1, np.full_like(held(model, operator, 1), 1e-2))


def reads_constant(model: Any, operator: Any) -> bool:
    return model.buffers[tensor(model, operator, 1).buffer].data is not None


def swapped_channels(model: Any) -> None:
    operator = operators(model, "CONV_2D")[2]
    put(model, operator, 1, np.roll(held(model, operator, 1), 1, axis=3))


def transposed_square_weight(model: Any) -> None:
    operator = operators(model, "FULLY_CONNECTED")[1]
    put(model, operator, 1, held(model, operator, 1).T)


def clipped_activation(model: Any) -> None:
    operators(model, "DEPTHWISE_CONV_2D")[
        0
    ].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU6


def dropped_activation(model: Any) -> None:
    operators(model, "CONV_2D")[0].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE


def wrong_softmax_axis(model: Any) -> None:
    """LiteRT's softmax has no axis: attention is transposed before it, as if rows were columns."""
    graph, operator = model.subgraphs[0], operators(model, "SOFTMAX")[0]
    made, moved = schema.TensorT(), schema.OperatorT()
    source = tensor(model, operator, 0)
    made.name, made.type, made.shape, made.hasRank = b"planted", source.type, list(source.shape), True
    empty = schema.BufferT()
    model.buffers.append(empty)
    made.buffer = len(model.buffers) - 1
    graph.tensors.append(made)
    moved.inputs, moved.outputs = [operator.inputs[0], operator.inputs[0]], [len(graph.tensors) - 1]
    become(model, moved, "TRANSPOSE", schema.TransposeOptionsT())
    order = [*range(len(source.shape) - 2), len(source.shape) - 1, len(source.shape) - 2]
    constant_of(model, moved, 1, np.array(order, np.int32))
    graph.operators.insert(graph.operators.index(operator), moved)
    operator.inputs = [len(graph.tensors) - 2 if graph.tensors[-2] is made else graph.tensors.index(made)]


def constant_of(model: Any, operator: Any, at: int, values: np.ndarray) -> None:
    put(model, operator, at, values)
    model.subgraphs[0].tensors[-1].type = schema.TensorType.INT32


def wrong_pool_divisor(model: Any) -> None:
    """The padding moved into the pool, which then divides by what it covers of the image alone."""
    graph, pad, pool = model.subgraphs[0], operators(model, "PAD")[1], operators(model, "AVERAGE_POOL_2D")[0]
    put(model, pad, 1, np.array([[0, 0], [0, 0], [0, 0], [0, 0]], np.int32))
    graph.tensors[pad.outputs[0]].shape = list(graph.tensors[pad.inputs[0]].shape)
    pool.builtinOptions.padding = schema.Padding.SAME


def wrong_slope(model: Any) -> None:
    operators(model, "LEAKY_RELU")[0].builtinOptions.alpha = 0.01


def tanh_gelu(model: Any) -> None:
    operators(model, "GELU")[0].builtinOptions.approximate = True


def wrong_dilation(model: Any) -> None:
    options = operators(model, "CONV_2D")[1].builtinOptions
    options.dilationHFactor = options.dilationWFactor = 1


def off_by_one_slice(model: Any) -> None:
    put(model, operators(model, "SLICE")[0], 1, np.array([0, 0, 0], np.int32))


def scaled(model: Any) -> None:
    operator = next(o for o in operators(model, "MUL") if reads_constant(model, o))
    put(model, operator, 1, held(model, operator, 1) * np.float32(1.01))


def wrong_resize_mode(model: Any) -> None:
    options = operators(model, "RESIZE_BILINEAR")[0].builtinOptions
    options.halfPixelCenters = not options.halfPixelCenters


def flipped_sign(model: Any) -> None:
    operator = operators(model, "DEPTHWISE_CONV_2D")[0]
    put(model, operator, 1, -held(model, operator, 1))


def wrong_concat_order(model: Any) -> None:
    operator = operators(model, "CONCATENATION")[0]
    operator.inputs = list(operator.inputs)[::-1]


def stale_statistic(model: Any) -> None:
    operator = operators(model, "CONV_2D")[0]
    put(model, operator, 2, held(model, operator, 2) + np.float32(0.05))


def maximum_for_mean(model: Any) -> None:
    operator = operators(model, "MEAN")[-1]
    become(model, operator, "REDUCE_MAX", operator.builtinOptions)


def wrong_transposition(model: Any) -> None:
    """The order of a TRANSPOSE: heads and tokens stay, and the channels of a head are mixed up."""
    operator = next(o for o in operators(model, "TRANSPOSE") if list(held(model, o, 1)) == [0, 2, 1, 3])
    graph = model.subgraphs[0]
    shape = [graph.tensors[operator.inputs[0]].shape[i] for i in (0, 2, 3, 1)]
    reshape = next(o for o in operators(model, "RESHAPE") if o.inputs[0] == operator.outputs[0])
    assert np.prod(graph.tensors[reshape.outputs[0]].shape) == np.prod(shape)
    put(model, operator, 1, np.array([0, 2, 3, 1], np.int32))
    graph.tensors[operator.outputs[0]].shape = shape


def swapped_operands(model: Any) -> None:
    """Attention mixes keys in the place of values."""
    keys, values = operators(model, "FULLY_CONNECTED")[1:3]
    reshape = next(o for o in operators(model, "RESHAPE") if o.inputs[0] == values.outputs[0])
    reshape.inputs = [keys.outputs[0], *list(reshape.inputs)[1:]]


DEFECTS: dict[str, tuple[Plant, str, set[str]]] = {
    "dropped bias": (dropped_bias, "FULLY_CONNECTED", {"up"}),
    "padding on the wrong side": (wrong_padding_side, "PAD", {"stem", "stem_norm"}),
    "wrong epsilon": (wrong_epsilon, "ADD", {"attention.norm"}),
    "swapped channels": (swapped_channels, "CONV_2D", {"point"}),
    "transposed weight of a square dense layer": (transposed_square_weight, "FULLY_CONNECTED", {"attention.key"}),
    "clipped activation": (clipped_activation, "RELU6 of DEPTHWISE_CONV_2D", {"rectify"}),
    "dropped activation": (dropped_activation, "CONV_2D", {"relu6"}),
    "wrong axis of a softmax": (wrong_softmax_axis, "TRANSPOSE", {"mul", "softmax"}),
    "wrong divisor of a pool": (wrong_pool_divisor, "AVERAGE_POOL_2D", {"pool"}),
    "wrong slope": (wrong_slope, "LEAKY_RELU", {"leaky"}),
    "tanh approximation of a gelu": (tanh_gelu, "GELU", {"gelu"}),
    "wrong dilation": (wrong_dilation, "CONV_2D", {"wide"}),
    "slice off by one": (off_by_one_slice, "SLICE", {"getitem"}),
    "scale by 1.01": (scaled, "MUL", {"mul"}),
    "wrong mode of a resize": (wrong_resize_mode, "RESIZE_BILINEAR", {"grow"}),
    "flipped sign": (flipped_sign, "DEPTHWISE_CONV_2D", {"depth", "depth_norm"}),
    "wrong order of a concatenation": (wrong_concat_order, "CONCATENATION", {"cat"}),
    "stale statistic of a batch norm": (stale_statistic, "CONV_2D", {"stem", "stem_norm"}),
    "maximum for a mean": (maximum_for_mean, "REDUCE_MAX", {"mean"}),
    "wrong transposition": (wrong_transposition, "TRANSPOSE", {"attention.query"}),
    "keys for values": (swapped_operands, "RESHAPE", {"attention.value", "reshape_2", "transpose_3"}),
}


def planted(source: Path, defect: str, folder: Path) -> Path:
    """A copy of the file with the defect in it."""
    model = tflite.load(source)
    DEFECTS[defect][0](model)
    path = folder / "planted.tflite"
    tflite.save(model, path)
    return path

"""Wrong rewrites of an `.onnx`, each as a converter might make it: (what is wrong, operator, layers) by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

Plant = Callable[[ModelProto], None]


def nodes(model: ModelProto, kind: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def giving(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def constant(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).copy()


def put(model: ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def own(model: ModelProto, node: NodeProto, at: int, values: np.ndarray) -> None:
    """A constant of this node alone, where others may share the old one."""
    name = f"planted_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    node.input[at] = name


def attribute(node: NodeProto, name: str, value: object) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def replace(model: ModelProto, node: NodeProto, *made: NodeProto) -> None:
    at = next(i for i, one in enumerate(model.graph.node) if one.output == node.output)
    del model.graph.node[at]
    for number, one in enumerate(made):
        model.graph.node.insert(at + number, one)


def dropped_bias(model: ModelProto) -> None:
    bias = nodes(model, "Gemm")[0].input[2]
    put(model, bias, np.zeros_like(constant(model, bias)))


def wrong_padding_side(model: ModelProto) -> None:
    attribute(nodes(model, "Conv")[0], "pads", [0, 0, 2, 2])


def wrong_epsilon(model: ModelProto) -> None:
    attribute(nodes(model, "LayerNormalization")[0], "epsilon", 1e-2)


def swapped_channels(model: ModelProto) -> None:
    weight = nodes(model, "Conv")[3].input[1]
    put(model, weight, np.roll(constant(model, weight), 1, axis=1))


def transposed_square_weight(model: ModelProto) -> None:
    weight = nodes(model, "MatMul")[0].input[1]
    put(model, weight, constant(model, weight).T)


def clipped_activation(model: ModelProto) -> None:
    node = nodes(model, "Relu")[0]
    bounds = [f"planted_{i}" for i in range(2)]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(v), n) for v, n in zip((0, 1), bounds, strict=True)
    )
    replace(model, node, helper.make_node("Clip", [node.input[0], *bounds], node.output, name="planted"))


def dropped_activation(model: ModelProto) -> None:
    node = nodes(model, "Relu")[0]
    replace(model, node, helper.make_node("Identity", node.input, node.output, name="planted"))


def wrong_softmax_axis(model: ModelProto) -> None:
    attribute(nodes(model, "Softmax")[0], "axis", 1)


def wrong_pool_divisor(model: ModelProto) -> None:
    attribute(nodes(model, "AveragePool")[0], "count_include_pad", 0)


def wrong_slope(model: ModelProto) -> None:
    attribute(nodes(model, "LeakyRelu")[0], "alpha", 0.01)


def sigmoid_for_erf(model: ModelProto) -> None:
    """The tanh approximation of gelu, in the place of its error function."""
    node = nodes(model, "Erf")[0]
    replace(model, node, helper.make_node("Tanh", node.input, node.output, name="planted"))


def wrong_dilation(model: ModelProto) -> None:
    node = next(n for n in nodes(model, "Conv") if any(a.name == "dilations" and a.ints[0] == 2 for a in n.attribute))
    attribute(node, "dilations", [1, 1])
    attribute(node, "pads", [1, 1, 1, 1])


def off_by_one_slice(model: ModelProto) -> None:
    node = nodes(model, "Slice")[0]
    own(model, node, 1, np.array([0], np.int64))
    own(model, node, 2, np.array([15], np.int64))


def scaled(model: ModelProto) -> None:
    node = nodes(model, "Concat")[0]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.01), "planted_scale"))
    made = helper.make_node("Concat", node.input, ["planted_cat"], name="concat", axis=1)
    replace(model, node, made, helper.make_node("Mul", ["planted_cat", "planted_scale"], node.output, name="planted"))


def wrong_resize_mode(model: ModelProto) -> None:
    attribute(nodes(model, "Resize")[0], "mode", "nearest")


def flipped_sign(model: ModelProto) -> None:
    node = next(n for n in nodes(model, "Conv") if n.output[0] == giving(model, "relu").input[0])
    put(model, node.input[1], -constant(model, node.input[1]))


def wrong_concat_order(model: ModelProto) -> None:
    node = nodes(model, "Concat")[0]
    node.input[:] = list(node.input)[::-1]


def reciprocal_with_epsilon(model: ModelProto) -> None:
    node = nodes(model, "Reciprocal")[0]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e-4), "planted_epsilon"))
    made = helper.make_node("Add", [node.input[0], "planted_epsilon"], ["planted_sum"], name="planted")
    replace(model, node, made, helper.make_node("Reciprocal", ["planted_sum"], node.output, name="reciprocal"))


def stale_statistic(model: ModelProto) -> None:
    bias = nodes(model, "Conv")[0].input[2]
    put(model, bias, constant(model, bias) + np.float32(0.05))


def wrong_transposition(model: ModelProto) -> None:
    """The axes of tokens and channels of an attention's result, which have different sizes, reshaped instead."""
    node = giving(model, giving(model, nodes(model, "MatMul")[-1].input[0]).input[0])
    attribute(node, "perm", [0, 2, 3, 1])


def swapped_operands(model: ModelProto) -> None:
    """Attention mixes keys in the place of values: both have one shape."""
    node = next(n for n in nodes(model, "MatMul") if n.input[0] == "softmax")
    keys = next(n for n in nodes(model, "MatMul") if n.input[0] == "transpose_1")
    moved = giving(model, keys.input[1])
    transposed = helper.make_node("Transpose", [moved.input[0]], ["planted_keys"], perm=[0, 2, 1, 3], name="planted")
    at = next(i for i, n in enumerate(model.graph.node) if n.output == node.output)
    model.graph.node.insert(at, transposed)
    node.input[1] = "planted_keys"


def maximum_for_mean(model: ModelProto) -> None:
    node = nodes(model, "ReduceMean")[0]
    replace(model, node, helper.make_node("ReduceMax", node.input, node.output, name="planted", keepdims=0))


DEFECTS: dict[str, tuple[Plant, str, set[str]]] = {
    "dropped bias": (dropped_bias, "Gemm", {"up"}),
    "padding on the wrong side": (wrong_padding_side, "Conv", {"stem", "stem_norm"}),
    "wrong epsilon": (wrong_epsilon, "LayerNormalization", {"attention.norm"}),
    "swapped channels": (swapped_channels, "Conv", {"point"}),
    "transposed weight of a square dense layer": (transposed_square_weight, "MatMul", {"attention.key"}),
    "clipped activation": (clipped_activation, "Clip", {"rectify"}),
    "dropped activation": (dropped_activation, "Identity", {"rectify"}),
    "wrong axis of a softmax": (wrong_softmax_axis, "Softmax", {"softmax"}),
    "wrong divisor of a pool": (wrong_pool_divisor, "AveragePool", {"pool"}),
    "wrong slope": (wrong_slope, "LeakyRelu", {"leaky"}),
    "tanh for the error function of a gelu": (sigmoid_for_erf, "Tanh", {"gelu"}),
    "wrong dilation": (wrong_dilation, "Conv", {"wide"}),
    "slice off by one": (off_by_one_slice, "Slice", {"getitem"}),
    "scale by 1.01": (scaled, "Mul", {"cat", "point"}),
    "wrong mode of a resize": (wrong_resize_mode, "Resize", {"grow"}),
    "flipped sign": (flipped_sign, "Conv", {"depth", "depth_norm"}),
    "wrong order of a concatenation": (wrong_concat_order, "Concat", {"cat"}),
    "reciprocal with an epsilon": (reciprocal_with_epsilon, "Add", {"reciprocal"}),
    "stale statistic of a batch norm": (stale_statistic, "Conv", {"stem", "stem_norm"}),
    "keys for values": (swapped_operands, "Transpose", {"attention.value"}),
    "maximum for a mean": (maximum_for_mean, "ReduceMax", {"mean"}),
}


def planted(source: Path, defect: str, folder: Path) -> Path:
    """A copy of the file with the defect in it."""
    model = onnx.load(source)
    DEFECTS[defect][0](model)
    path = folder / "planted.onnx"
    onnx.save(model, path)
    return path

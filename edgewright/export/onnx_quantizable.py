"""An ONNX graph in the form that ONNX Runtime's quantizer makes a valid file of: equal, for the same inputs."""

import numpy as np
import onnx

from edgewright.intake.onnx_tensors import graphs_of

__all__ = ["CHANNELS_OPSET", "opset_of", "with_biases_by_channel", "with_channels", "with_names_for_copies"]

CHANNELS_OPSET = 13  # the oldest in which DequantizeLinear takes a scale for each channel


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), CHANNELS_OPSET)


def with_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in an opset that has scales for each channel; as it is, where that would not be exact.

    The quantizer writes such scales into a file of any opset, and ONNX Runtime does not load it.
    """
    # "" stands for a resize that no mode of opset 11 places alike: such a graph would answer otherwise.
    placed = _nearest_of_resized(model)
    if opset_of(model) >= CHANNELS_OPSET or model.functions or "" in placed.values():
        return model
    try:
        raised = onnx.version_converter.convert_version(model, CHANNELS_OPSET)
        onnx.checker.check_model(raised)
    except Exception:  # by the converter's C++: no adapter for an operator, or beyond the 2 GB of a message
        return model
    for graph in graphs_of(raised.graph):
        del graph.value_info[:]  # of what the converter adds, it claims that it is one number
        for node in graph.node:
            if node.output[0] in placed:
                _place(node, placed[node.output[0]])
    # The converter writes the shapes that it infers over those that the model declares.
    for side in ("input", "output", "value_info"):
        del getattr(raised.graph, side)[:]
        getattr(raised.graph, side).extend(getattr(model.graph, side))
    return raised


def _nearest_of_resized(model: onnx.ModelProto) -> dict[str, str]:
    """The ``nearest_mode`` by which each result of a resize from before opset 11 is placed; "" where none is the same.

    ONNX Runtime takes the value before where a size grows, the one behind where it shrinks.
    """
    if opset_of(model) >= 11:
        return {}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    modes: dict[str, str] = {}
    for node in (node for graph in graphs_of(model.graph) for node in graph.node):
        if node.op_type == "Upsample":
            modes[node.output[0]] = "floor"
        elif node.op_type == "Resize":
            # Computed scales may be any: one that shrinks and one that grows stand for them.
            scales = onnx.numpy_helper.to_array(held[node.input[1]]) if node.input[1] in held else np.array([0.5, 2.0])
            modes[node.output[0]] = "floor" if (scales >= 1).all() else "ceil" if (scales <= 1).all() else ""
    return modes


def _place(node: onnx.NodeProto, nearest: str) -> None:
    """As before opset 11; from there on Resize places values otherwise unless it is told to."""
    chosen = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": nearest}
    attributes = [a for a in node.attribute if a.name not in chosen]
    del node.attribute[:]
    node.attribute.extend([*attributes, *(onnx.helper.make_attribute(name, value) for name, value in chosen.items())])


def with_biases_by_channel(model: onnx.ModelProto) -> None:
    """Give each constant bias of a dense layer that is equal for all rows one axis, of the layer's outputs.

    The quantizer gives it a scale for each output along its first axis, whatever stands there.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[1] not in held or node.input[2] not in held:
            continue
        bias, weight = held[node.input[2]], held[node.input[1]]
        is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
        outputs = weight.dims[0 if is_transposed else 1]
        # A bias of several rows adds another number to each row of the batch, and has no form of one axis.
        if list(bias.dims) != [outputs] and list(bias.dims) in ([], [1], [1, 1], [1, outputs]):
            # A constant of its own: another layer may read the bias, too, and have more outputs or fewer.
            name = f"{bias.name}_of_{outputs}_outputs"
            if name not in held:
                value = np.broadcast_to(onnx.numpy_helper.to_array(bias), (1, outputs))[0]
                held[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
                model.graph.initializer.append(held[name])
            node.input[2] = name
    _drop_unread(model)


def with_names_for_copies(model: onnx.ModelProto) -> None:
    """Rename each constant whose copies would bear the name of another value.

    The quantizer gives a constant that several nodes read a copy for each, by the constant's name and the next number
    that no other constant has; it does not see that a computed value has it.
    """
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    declared = {value.name for value in model.graph.input}
    computed = {name for node in nodes for name in node.output} | declared
    taken = computed | {tensor.name for tensor in model.graph.initializer}
    # A value `x12` is in the way of a copy of `x`, and of one of `x1`.
    stems = {name[:end] for name in computed for end in range(len(name.rstrip("0123456789")), len(name))}
    new: dict[str, str] = {}
    for tensor in model.graph.initializer:
        # What is declared as an input is part of how the model is called, and keeps its name.
        if tensor.name not in stems or tensor.name in declared:
            continue
        name = f"{tensor.name}_constant"
        while name in taken or name in stems:
            name += "_"
        new[tensor.name], tensor.name = name, name
        taken.add(name)
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = new.get(name, name)


def _drop_unread(model: onnx.ModelProto) -> None:
    graphs = list(graphs_of(model.graph))
    read = {name for graph in graphs for node in graph.node for name in node.input}
    # An initializer may be an output as it is, and one that is an input, too, is only its default.
    read |= {value.name for graph in graphs for value in graph.output} | {value.name for value in model.graph.input}
    unread = [tensor for tensor in model.graph.initializer if tensor.name not in read]
    for tensor in unread:
        model.graph.initializer.remove(tensor)

"""The `.tflite` file itself, read and written by its published flatbuffer schema; no interpreter involved.

Schema: https://github.com/google-ai-edge/LiteRT, ``tflite/schema/schema.fbs``.
"""

import copy
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgewright.errors import ConversionError, InputError
from edgewright.export.declaration import Declared
from edgewright.failures import one_line
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = [
    "DTYPES",
    "flatten_biases",
    "load",
    "name_tensors",
    "operator_name",
    "packed",
    "save",
    "tensors",
    "zero_point",
]

_IDENTIFIER = b"TFL3"
# The path of torch.export's own wrapper, which litert-torch puts before the name of each layer: kilobytes of it.
_EXPORTER_WRAPPER = re.compile(rb"torch\.export\._trace\.[^;]*?Wrapper/")
_NAMES = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
DTYPES = {code: name.lower() for code, name in _NAMES.items()}
_BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3, "CONV_3D": 2}
"""Which input is the bias."""


def load(path: Path) -> Any:
    """The file as the schema's mutable ``ModelT``, its tensors named and its references checked.

    Raises:
        InputError: not a `.tflite` file, a damaged one, or one of a newer schema.
    """
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        raise InputError(f"{path}: not a .tflite file (no TFL3 at byte 4); was it cut off or renamed?")
    try:
        model = flatbuffer_utils.read_model_from_bytearray(content)
    except (struct.error, ValueError, TypeError, IndexError, AttributeError) as e:
        # flatbuffers raises the first two for an offset that leads nowhere, in words of its own code.
        leads_nowhere = isinstance(e, (struct.error, TypeError))
        cause = f"it refers to what lies outside its {len(content):,} bytes" if leads_nowhere else one_line(e, 200)
        raise InputError(f"{path}: a truncated or damaged .tflite: {cause}") from e
    _complete(model)
    fault = _fault(model)
    if fault:
        raise InputError(f"{path}: a damaged .tflite, or one of a newer schema: {fault}; export the model again")
    return model


def _complete(model: Any) -> None:
    """Put a list in the place of each that is left out, and a name in that of each tensor's."""
    model.operatorCodes = _listed(model.operatorCodes)
    for graph in model.subgraphs:
        graph.inputs, graph.outputs = _listed(graph.inputs), _listed(graph.outputs)
        graph.operators = _listed(graph.operators)
        for operator in graph.operators:
            operator.inputs, operator.outputs = _listed(operator.inputs), _listed(operator.outputs)
        for number, tensor in enumerate(graph.tensors):
            if not tensor.name:  # converters may strip what no runtime needs
                tensor.name = b"tensor_%d" % number
    for signature in _listed(model.signatureDefs):
        signature.inputs, signature.outputs = _listed(signature.inputs), _listed(signature.outputs)


def _listed(values: Any) -> Any:
    return [] if values is None else values


def _fault(model: Any) -> str:
    """What the file refers to and does not hold, or does not name as the schema does; "" where there is nothing."""
    if not model.subgraphs:
        return "it holds no graph"
    for code in model.operatorCodes:
        if _builtin(code) not in _OPERATORS:
            return f"its operator code {_builtin(code)} is unknown"
    for graph in model.subgraphs:
        count = len(graph.tensors)
        for tensor in graph.tensors:
            if tensor.type not in DTYPES:
                return f"its tensor '{_text(tensor.name)}' is of type {tensor.type}, which is unknown"
        for number, operator in enumerate(graph.operators):
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
                return f"its operator {number} has code {operator.opcodeIndex} of {len(model.operatorCodes)}"
            # An operand that is left out is -1.
            if any(not -1 <= i < count for i in (*operator.inputs, *operator.outputs)):
                return f"its operator {number} reads or gives a tensor that is not among its {count}"
        if any(not 0 <= i < count for i in (*graph.inputs, *graph.outputs)):
            return f"an input or output is not among its {count} tensors"
    return _signature_fault(model)


def _signature_fault(model: Any) -> str:
    for signature in _listed(model.signatureDefs):
        if not 0 <= signature.subgraphIndex < len(model.subgraphs):
            return f"a signature is of graph {signature.subgraphIndex} of {len(model.subgraphs)}"
        count = len(model.subgraphs[signature.subgraphIndex].tensors)
        if any(not 0 <= entry.tensorIndex < count for entry in (*signature.inputs, *signature.outputs)):
            return "an input or output of its signature is not among its tensors"
    return ""


def _builtin(code: Any) -> int:
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))  # codes below 127 stand in the older field


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")


def save(model: Any, path: Path) -> None:
    """Write a ``ModelT``; the same model gives the same bytes."""
    with path.open("wb") as stream:
        stream.write(packed(model))


def packed(model: Any) -> memoryview:
    """The content of the file that holds a ``ModelT``."""
    held = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    # Large enough from the start: a builder that grows copies everything each time.
    builder = flatbuffers.Builder(held + held // 64 + (1 << 16))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return memoryview(builder.Bytes)[builder.Head() :]


def name_tensors(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the signature's inputs and outputs the source model's names, in its order, and layers their own.

    The converter numbers inputs and outputs (``args_0``, ``output_0``); an app looks them up by name.

    Raises:
        ConversionError: the file has another number of inputs or outputs than the source.
    """
    signature, graph = model.signatureDefs[0], model.subgraphs[0]
    for kind, maps, names in (("inputs", signature.inputs, inputs), ("outputs", signature.outputs, outputs)):
        if len(maps) != len(names):
            raise ConversionError(f"the .tflite has {len(maps)} {kind}, the source model {len(names)}")
        # By number, not by name: `args_10` sorts before `args_2`.
        maps.sort(key=lambda m: int(m.name.rpartition(b"_")[2]))
        for entry, name in zip(maps, names, strict=True):
            entry.name = name.encode()
    short = [_EXPORTER_WRAPPER.sub(b"", tensor.name) for tensor in graph.tensors]
    # All or none: two layers that differ in the wrapper alone would get one name.
    if len(set(short)) == len(short):
        for tensor, layer in zip(graph.tensors, short, strict=True):
            tensor.name = layer
    taken = {tensor.name for tensor in graph.tensors}
    for entry in (*signature.inputs, *signature.outputs):
        if entry.name not in taken:  # quantizers find tensors by name: it must stay unique
            graph.tensors[entry.tensorIndex].name = entry.name


def flatten_biases(model: Any) -> None:
    """Give each layer's constant bias one axis, as the kernels read it.

    The converter leaves axes of one place where it folds a scaling or an addition of such a constant into the layer. In
    int8 the bias has a scale for each channel, along the first axis, and interpreters refuse the file if that is one
    place long. Who else reads the constant keeps it as it was.
    """
    for graph in model.subgraphs:
        uses: dict[int, list[tuple[Any, int]]] = {}  # the layers that take the tensor for their bias, and where
        for operator in graph.operators:
            place = _BIAS.get(operator_name(model, operator), len(operator.inputs))
            if place < len(operator.inputs) and operator.inputs[place] >= 0:
                uses.setdefault(int(operator.inputs[place]), []).append((operator, place))
        # Each reading counts, since a layer that also adds the constant reads it twice.
        read = [int(i) for operator in graph.operators for i in operator.inputs] + [int(i) for i in graph.outputs]
        for index, layers in uses.items():
            bias = graph.tensors[index]
            if model.buffers[bias.buffer].data is None or len(bias.shape) == 1:
                continue
            if read.count(index) > len(layers):
                bias = _copied(graph, bias)
                for operator, place in layers:
                    operator.inputs[place] = len(graph.tensors) - 1
            bias.shape, bias.shapeSignature = [math.prod(int(n) for n in bias.shape)], None


def _copied(graph: Any, tensor: Any) -> Any:
    """Another tensor of the same content, the graph's last."""
    taken, name = {t.name for t in graph.tensors}, tensor.name + b"/bias"
    while name in taken:
        name += b"_"
    added = copy.copy(tensor)
    added.name = name
    graph.tensors.append(added)
    return added


def tensors(path: Path) -> Declared:
    """What the file declares, inputs and outputs in the signature's order."""
    model = load(path)
    graph, signature = model.subgraphs[0], (model.signatureDefs or [None])[0]
    # Files of older converters have no signature, and tensors under the names of their graph.
    if signature is None:
        pairs = [[(graph.tensors[i].name, i) for i in side] for side in (graph.inputs, graph.outputs)]
    else:
        pairs = [[(m.name, m.tensorIndex) for m in side] for side in (signature.inputs, signature.outputs)]
    inputs, outputs = (tuple(_spec(_text(name), graph.tensors[i]) for name, i in side) for side in pairs)
    return Declared(inputs, outputs)


def operator_name(model: Any, operator: Any) -> str:
    """The schema's name of an operator, ``CUSTOM:<name>`` for a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    if _builtin(code) == schema.BuiltinOperator.CUSTOM:
        return f"CUSTOM:{_text(code.customCode)}"
    return str(_OPERATORS[_builtin(code)])


def zero_point(tensor: Any) -> int:
    """What stands for zero in a tensor with one scale; the schema lets a file leave out a zero point of 0."""
    points = tensor.quantization.zeroPoint
    return int(points[0]) if points is not None and len(points) else 0


def _spec(name: str, tensor: Any) -> TensorSpec:
    # A free axis is -1 in the signature's shape, and 1 in the other.
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization = tensor.quantization
    # Inputs and outputs have one scale; several are those of a weight's channels.
    scaled = quantization is not None and quantization.scale is not None and len(quantization.scale) == 1
    return TensorSpec(
        name=name,
        shape=tuple(int(n) for n in (shape if shape is not None else ())),
        dtype=DTYPES[tensor.type],
        scale=float(quantization.scale[0]) if scaled else None,
        zero_point=zero_point(tensor) if scaled else None,
    )

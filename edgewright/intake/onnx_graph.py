"""The importer: an ONNX model becomes a `torch.fx.GraphModule` of ordinary layers and functions.

Constants are folded, shapes are inferred, names are kept; what training needs (BatchNorm, Dropout) stays a layer.
Specification: https://onnx.ai/onnx/operators/. Runs in a child process: imports torch and onnx.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, inliner
from torch import fx

from edgewright.errors import InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.builder import Argument, Builder, Op, Operand, Result, TensorSequence, operand, refuse
from edgewright.intake.onnx_layers import Layers, users_of
from edgewright.intake.onnx_nodes import needed_nodes
from edgewright.intake.onnx_tensors import array_of, type_name
from edgewright.intake.operators import (
    attention,
    control_flow,
    convolution,
    dims,
    elementwise,
    indexing,
    kernels,
    pooling,
    preprocessing,
    quantized,
    recurrent,
    reduction,
    sampling,
    sequences,
    shape,
    trees,
)

__all__ = ["HANDLERS", "ML_HANDLERS", "import_onnx"]

HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    **convolution.HANDLERS,
    **pooling.HANDLERS,
    **elementwise.HANDLERS,
    **shape.HANDLERS,
    **sequences.HANDLERS,
    **reduction.HANDLERS,
    **indexing.HANDLERS,
    **sampling.HANDLERS,
    **attention.HANDLERS,
    **quantized.HANDLERS,
    **recurrent.HANDLERS,
}
"""Operators of the domain ai.onnx."""

ML_HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    **trees.HANDLERS,
    **preprocessing.HANDLERS,
    **kernels.HANDLERS,
}
"""Operators of the domain ai.onnx.ml."""

_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
}
_WITHOUT_EFFECT = {"storage_order", "nodes_hitrates", "seed", "saturate", "momentum", "multi_class", "sorted"} | {
    "stash_type",
    "round_mode",
    "inputdimensions",
}
"""Attributes that change no result in inference, or none of the types that are known."""
_DEFAULT_DOMAIN = {"", "ai.onnx"}
_TABLES: dict[str, Mapping[str, Callable[[Builder, Op], Result]]] = {
    "": HANDLERS,
    "ai.onnx": HANDLERS,
    "ai.onnx.ml": ML_HANDLERS,
    "com.microsoft": kernels.MICROSOFT_HANDLERS,
}


def import_onnx(model: onnx.ModelProto) -> fx.GraphModule:
    """The torch graph of an ONNX model, in inference mode.

    The first axis of an input may be free (a named or missing size); every other size must be a number. The result
    takes the model's inputs in their order and returns a tensor, or a tuple where the model has several outputs.

    Raises:
        UnsupportedError: an operator, a type or a free size that the importer does not know; names it and its node.
    """
    if model.functions:
        # Handlers know operators; a function of the model's own is written out in its place.
        model = inliner.inline_local_functions(model)
    return _Import(model).whole(model.graph)


class _Import:
    """One model on its way in: the graph so far, and what stands behind each name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.builder = Builder()
        # "" is how a node leaves out an optional input.
        self.values: dict[str, Argument] = {"": None}
        self.opsets = {o.domain: o.version for o in model.opset_import}
        self.layers = Layers(self.builder, users_of(model.graph))
        # The graphs are kept, so that another does not get the identity of one that is gone.
        self.held: dict[int, tuple[onnx.GraphProto, dict[str, torch.Tensor]]] = {}

    def whole(self, graph: onnx.GraphProto) -> fx.GraphModule:
        """The module of the model's own graph."""
        constants = {initializer.name for initializer in graph.initializer}
        for entry in graph.input:
            if entry.name not in constants:
                shape, dtype = _shape_of(entry), _dtype_of(entry)
                self.values[entry.name] = self.builder.placeholder(entry.name, shape, dtype)
        results = self.inner(graph, ())
        names = [entry.name for entry in graph.output]
        return self.builder.finish([_output(v, name) for v, name in zip(results, names, strict=True)])

    def inner(self, graph: onnx.GraphProto, given: Sequence[Argument]) -> list[Argument]:
        """What a graph returns for what it is given; it may read the names around it."""
        if id(graph) not in self.held:  # a tensor stays one, however often a loop goes round
            self.held[id(graph)] = graph, {entry.name: _tensor(entry) for entry in graph.initializer}
        self.values.update(self.held[id(graph)][1])
        self.values.update(zip((entry.name for entry in graph.input), given, strict=False))
        for node in needed_nodes(graph):
            self._take(node)
        return [self.values[entry.name] for entry in graph.output]

    def _decided(self, op: Op) -> Result:
        """Control flow, unrolled as far as its conditions are constant."""
        # Loop and Scan bring the same nodes again: a bias fused in one round would be in the layer in the next one.
        around, self.layers.is_repeating = self.layers.is_repeating, self.layers.is_repeating or op.kind != "If"
        try:
            return control_flow.HANDLERS[op.kind](self.builder, op, self.inner)
        except UnsupportedError:
            raise
        except Exception as e:  # as for other operators
            raise refuse(op, f"cannot be expressed in torch ({one_line(e, 160)})") from e
        finally:
            self.layers.is_repeating = around

    def _take(self, node: onnx.NodeProto) -> None:
        op = _op(node, self.values, self.opsets)
        # Asked before conversion: a second use of a weight calls the layer that has it, so that it stays one.
        earlier = self.layers.earlier(op)
        if op.kind in control_flow.HANDLERS and node.domain in _DEFAULT_DOMAIN:
            results = self._decided(op)
        elif earlier is not None:
            results = self.builder.again(earlier, operand(op, 0))
        else:
            results = _converted(self.builder, node, op)
            self.layers.note(op, results)
        results = results if isinstance(results, tuple) else (results,)
        self.values.update(zip(node.output, results, strict=False))
        self.layers.fuse_bias(node, self.values)


def _converted(builder: Builder, node: onnx.NodeProto, op: Op) -> Result:
    try:
        result = _of_sizes(op) if _takes_sizes_alone(op) else _handler(node, op)(builder, op)
    except UnsupportedError:
        raise
    except Exception as e:  # torch, numpy and sympy each have errors of their own
        raise refuse(op, f"cannot be expressed in torch ({one_line(e, 160)})") from e
    # Torch may decide by the size of the traced batch, say that a broadcast fits; another batch would not.
    if tie := builder.tie():
        raise refuse(op, f"ties the batch, which must stay free, to some sizes ({tie})")
    # An attribute that no handler has read could change the result without a word.
    unread = set() if _takes_sizes_alone(op) else set(op.attributes) - op.asked - _WITHOUT_EFFECT
    if unread:
        raise refuse(op, f"attribute {min(unread)} is not known to the importer")
    return result


def _handler(node: onnx.NodeProto, op: Op) -> Callable[[Builder, Op], Result]:
    table = _TABLES.get(node.domain, {})
    if op.kind not in table:
        raise refuse(op, "not known to the importer")
    return table[op.kind]


def _takes_sizes_alone(op: Op) -> bool:
    """Whether an operator computes on sizes of which one depends on the batch, and on constants."""
    # fx.Node and sequences hold data; what is left are sizes (Dims, object arrays) and constants.
    if op.kind not in dims.HANDLERS_OF_DIMS or any(isinstance(v, (fx.Node, TensorSequence)) for v in op.inputs):
        return False
    sizes = [isinstance(v, np.ndarray) for v in op.inputs]
    return sizes[0] or (any(sizes) and op.kind in dims.OF_EITHER_SIDE)


def _of_sizes(op: Op) -> Result:
    sizes = dims.HANDLERS_OF_DIMS[op.kind](op)
    return tuple(map(shape.dims_or_constant, sizes)) if isinstance(sizes, list) else shape.dims_or_constant(sizes)


def _op(node: onnx.NodeProto, values: Mapping[str, Argument], opsets: Mapping[str, int]) -> Op:
    domain = "" if node.domain in _DEFAULT_DOMAIN else node.domain
    missing = [name for name in node.input if name not in values]
    if missing:
        raise InputError(f"node '{node.name}' ({node.op_type}) reads '{missing[0]}', which nothing before it makes")
    return Op(
        kind=node.op_type,
        name=node.name,
        inputs=tuple(values[name] for name in node.input),
        attributes={a.name: _attribute(a, node) for a in node.attribute},
        # Exporters write the default domain as "" or as "ai.onnx".
        opset=opsets.get(domain, opsets.get("ai.onnx", 1)),
        outputs=tuple(node.output),
        input_names=tuple(node.input),
    )


def _attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto) -> Any:
    try:
        return _value_of(attribute)
    except ValueError as e:  # text that is not UTF-8, or an attribute of no type
        raise InputError(
            f"damaged: attribute '{attribute.name}' of node '{node.name}' ({node.op_type}): {one_line(e, 120)}"
        ) from e


def _value_of(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    # The number of a type that torch lacks becomes its name, for the refusal.
    if attribute.name in {"to", "dtype", "output_dtype"} and isinstance(value, int):
        return _DTYPES.get(value, type_name(value))
    if isinstance(value, TensorProto):
        return _tensor(value)
    if isinstance(value, float):
        return float(str(np.float32(value)))  # 1e-05, not the float32 nearest to it
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and value and isinstance(value[0], bytes):
        return [v.decode() for v in value]
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _tensor(proto: onnx.TensorProto) -> torch.Tensor:
    if proto.data_type not in _DTYPES:
        raise UnsupportedError(
            f"tensor '{proto.name}' of type {type_name(proto.data_type)} has no place in a torch graph"
        )
    array = np.ascontiguousarray(array_of(proto))
    # ml_dtypes' bfloat16 is not a dtype that torch.from_numpy knows.
    if proto.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    # Copied, since numpy_helper may hand out memory of the protobuf that is read-only.
    return torch.from_numpy(array.copy()).reshape(tuple(proto.dims))


def _dtype_of(entry: onnx.ValueInfoProto) -> torch.dtype:
    kind = entry.type.tensor_type.elem_type
    if not entry.type.HasField("tensor_type") or kind not in _DTYPES:
        raise UnsupportedError(f"input '{entry.name}' is not a tensor of numbers or booleans")
    return _DTYPES[kind]


def _shape_of(entry: onnx.ValueInfoProto) -> list[int]:
    """Sizes of an input, -1 for a free first axis."""
    sizes = []
    for axis, dim in enumerate(entry.type.tensor_type.shape.dim):
        # 0 is a size of any axis but the first, where it stands for a free one.
        if dim.HasField("dim_value") and (dim.dim_value > 0 or axis > 0):
            sizes.append(dim.dim_value)
        elif axis == 0:
            sizes.append(-1)
        else:
            raise UnsupportedError(
                f"input '{entry.name}': axis {axis} has no fixed size ({dim.dim_param or 'unknown'}); "
                f"give it: --shape {entry.name}=1,..."
            )
    return sizes


def _output(value: Argument, name: str) -> Operand:
    if not isinstance(value, (torch.Tensor, fx.Node)):
        kind = "a sequence" if isinstance(value, TensorSequence) else "a size that depends on the batch"
        raise UnsupportedError(f"output '{name}' is {kind}, not a tensor")
    return value

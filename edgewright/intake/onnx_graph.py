"""The importer: an ONNX model becomes a `torch.fx.GraphModule` of ordinary layers and functions.

Constants are folded, shapes are inferred, names are kept; what training needs (BatchNorm, Dropout) stays a layer.
Specification: https://onnx.ai/onnx/operators/. Runs in a child process: imports torch and onnx.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from edgewright.errors import InputError, UnsupportedError
from edgewright.intake.builder import Builder, Op, Operand, Result, Value, refuse
from edgewright.intake.onnx_nodes import needed_nodes
from edgewright.intake.operators import (
    attention,
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
    shape,
    trees,
)

__all__ = ["HANDLERS", "ML_HANDLERS", "import_onnx"]

HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    **convolution.HANDLERS,
    **pooling.HANDLERS,
    **elementwise.HANDLERS,
    **shape.HANDLERS,
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
    builder = Builder()
    values: dict[str, Value] = {"": None}
    for initializer in model.graph.initializer:
        values[initializer.name] = _tensor(initializer)
    for entry in model.graph.input:
        if entry.name not in values:
            values[entry.name] = builder.placeholder(entry.name, _shape_of(entry), _dtype_of(entry))
    opsets = {o.domain: o.version for o in model.opset_import}
    users = _users(model.graph)
    for node in needed_nodes(model.graph):
        op = _op(node, values, opsets)
        results = _converted(builder, node, op)
        results = results if isinstance(results, tuple) else (results,)
        values.update(zip(node.output, results, strict=False))
        _fuse_bias(builder, node, values, users)
    outputs = [_output(builder, values, entry.name) for entry in model.graph.output]
    return builder.finish(outputs)


def _converted(builder: Builder, node: onnx.NodeProto, op: Op) -> Result:
    sizes_only = not any(isinstance(v, fx.Node) for v in op.inputs) and any(
        isinstance(v, np.ndarray) for v in op.inputs
    )
    if sizes_only and op.kind in dims.HANDLERS_OF_DIMS:
        return shape.dims_or_constant(dims.HANDLERS_OF_DIMS[op.kind](op))
    table = _TABLES.get(node.domain, {})
    if op.kind not in table:
        raise refuse(op, "not known to the importer")
    try:
        result = table[op.kind](builder, op)
    except UnsupportedError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as e:
        raise refuse(op, f"cannot be expressed in torch ({str(e).strip().splitlines()[0][:160]})") from e
    unread = set(op.attributes) - op.asked - _WITHOUT_EFFECT
    if unread:
        raise refuse(op, f"attribute {min(unread)} is not known to the importer")
    return result


def _op(node: onnx.NodeProto, values: Mapping[str, Value], opsets: Mapping[str, int]) -> Op:
    domain = "" if node.domain in _DEFAULT_DOMAIN else node.domain
    missing = [name for name in node.input if name not in values]
    if missing:
        raise InputError(f"node '{node.name}' ({node.op_type}) reads '{missing[0]}', which nothing before it makes")
    return Op(
        kind=node.op_type,
        name=node.name,
        inputs=tuple(values[name] for name in node.input),
        attributes={a.name: _attribute(a) for a in node.attribute},
        opset=opsets.get(domain, opsets.get("ai.onnx", 1)),
        outputs=tuple(node.output),
        input_names=tuple(node.input),
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if attribute.name in {"to", "dtype", "output_dtype"} and isinstance(value, int):
        return _DTYPES.get(value, TensorProto.DataType.Name(value))
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
            f"tensor '{proto.name}' of type {TensorProto.DataType.Name(proto.data_type)} has no place in a torch graph"
        )
    array = np.ascontiguousarray(numpy_helper.to_array(proto))
    if proto.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(array.copy()).reshape(tuple(proto.dims))


def _dtype_of(entry: onnx.ValueInfoProto) -> torch.dtype:
    kind = entry.type.tensor_type.elem_type
    if not entry.type.HasField("tensor_type") or kind not in _DTYPES:
        raise UnsupportedError(f"input '{entry.name}' is no tensor of numbers or booleans")
    return _DTYPES[kind]


def _shape_of(entry: onnx.ValueInfoProto) -> list[int]:
    """Sizes of an input, -1 for a free first axis."""
    sizes = []
    for axis, dim in enumerate(entry.type.tensor_type.shape.dim):
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


def _users(graph: onnx.GraphProto) -> dict[str, int]:
    """How often each name is read, outputs included."""
    counts: dict[str, int] = {}
    for name in [n for node in graph.node for n in node.input] + [o.name for o in graph.output]:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _fuse_bias(builder: Builder, node: onnx.NodeProto, values: dict[str, Value], users: Mapping[str, int]) -> None:
    """A layer without bias, then Add of a constant for each output channel: one layer, for quantizers and pruning."""
    if node.op_type != "Add" or len(node.input) != 2:
        return
    for product, addend in (tuple(node.input), tuple(reversed(node.input))):
        made, bias = values[product], values[addend]
        if not isinstance(made, fx.Node) or made.op != "call_module" or not isinstance(bias, torch.Tensor):
            continue
        layer = builder.root.get_submodule(str(made.target))
        if users[product] == 1 and _is_bias_of(layer, bias, builder.rank(made)):
            layer.bias = nn.Parameter(bias.detach().clone().reshape(-1))
            values[node.output[0]] = made
            return


def _is_bias_of(layer: nn.Module, bias: torch.Tensor, rank: int) -> bool:
    if getattr(layer, "bias", 0) is not None or bias.ndim > rank:
        return False
    aligned = (1,) * (rank - bias.ndim) + tuple(bias.shape)
    if isinstance(layer, nn.Linear):
        return aligned == (1,) * (rank - 1) + (layer.out_features,)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return aligned == (1, layer.out_channels) + (1,) * (rank - 2)
    return False


def _output(builder: Builder, values: Mapping[str, Value], name: str) -> Operand:
    value = values[name]
    if not isinstance(value, (torch.Tensor, fx.Node)):
        raise UnsupportedError(f"output '{name}' is a size that depends on the batch")
    return value

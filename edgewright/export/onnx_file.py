"""The `.onnx` file itself: what it declares, and what must not stand in a file that leaves the workstation."""

import itertools
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgewright.errors import InputError, UnsupportedError
from edgewright.export.declaration import Declared
from edgewright.export.magnitudes import steps_to_magnitudes
from edgewright.export.scaling import ScalingNode
from edgewright.export.small_constants import steps_from_lost_guards
from edgewright.export.whole_numbers import steps_to_whole_numbers
from edgewright.failures import one_line
from edgewright.intake.onnx_tensors import graphs_of
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = [
    "MASKS_NOTE",
    "PAIR_SUM",
    "SCALES_NOTE",
    "SIGNED_ACTIVATIONS",
    "load",
    "name_nodes",
    "name_outputs",
    "nodes_of",
    "nodes_to_magnitudes",
    "nodes_to_whole_numbers",
    "require",
    "runtime_floor",
    "steps",
    "strip",
    "tensors",
    "untyped",
]

# onnxruntime.quantization.quantize_static's own documentation ("Choosing parameters for CPU inference"): unsigned
# activations on x86, whose dot product multiplies u8 by s8; signed ones on Arm, whose kernels (sdot, and the symmetric
# convolution of https://github.com/microsoft/onnxruntime/pull/9772, so in its weights) want s8 by s8. That they
# be symmetric too, as it says, took more instructions: 7% of a DenseNet's on an emulated Cortex-A53, for the ReLUs
# that a zero point at the least level makes needless.
SIGNED_ACTIVATIONS = {"arm64", "armv7"}
# The oldest ONNX Runtime that reads an opset of the default domain, and an IR version:
# https://onnxruntime.ai/docs/reference/compatibility.html; opsets 24 and 25 came with ONNX 1.19.1 and 1.20.1, which
# https://github.com/microsoft/onnxruntime/pull/26202 and 26579 took in between the releases 1.23 and 1.24.
_RUNTIME_OF_OPSET = {
    13: "1.7", 14: "1.8", 15: "1.9", 16: "1.11", 17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21",
    23: "1.23", 24: "1.24", 25: "1.24",
}  # fmt: skip
MASKS_NOTE = "edgewright.masks"  # written by `edgewright.export.onnx_runtime`
PAIR_SUM = "edgewright.largest_pair_sum"  # written by `edgewright.export.onnx_int8`
SCALES_NOTE = "edgewright.scales"  # likewise
_RUNTIME_OF_OPERATOR = {"MatMulNBits": "1.17"}
_WHOLE = {getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}
_RUNTIME_OF_IR = {7: "1.7", 8: "1.10", 9: "1.15", 10: "1.18", 11: "1.23", 12: "1.24", 13: "1.24"}


def load(path: Path, *, with_data: bool = True) -> onnx.ModelProto:
    """Parse a model.

    Raises:
        InputError: not an ONNX model, or a damaged one.
    """
    try:
        model = onnx.load(path, load_external_data=with_data)
    except DecodeError as e:  # protobuf's own words name its types
        raise InputError(f"{path}: not a readable ONNX model: truncated or damaged") from e
    # ValueError: the place of external data is not a number, or lies outside its file.
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise InputError(f"{path}: not a readable ONNX model: {one_line(e, 200)}") from e
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX model (no graph in it)")
    return model


def require(path: Path, operators: set[str], refusal: UnsupportedError) -> None:
    """Raise the refusal where no node of the model is one of the operators."""
    if not any(node.op_type in operators for node in load(path, with_data=False).graph.node):
        raise refusal


def nodes_of(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """The names of the nodes that bear, or give a value of, one of these names."""
    known = set(names)
    return [node.name for node in model.graph.node if node.name in known or known & set(node.output)]


def steps(model: onnx.ModelProto) -> list[ScalingNode]:
    """The nodes as the rules on what stays float read them."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        ScalingNode(
            kind=node.op_type,
            values=tuple(name for name in node.input if name and name not in held),
            constants=tuple(
                onnx.numpy_helper.to_array(held[name])
                for name in node.input
                if name in held and held[name].data_type == onnx.TensorProto.FLOAT
            ),
            results=tuple(node.output),
        )
        for node in model.graph.node
    ]


def nodes_to_whole_numbers(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes that compute what is cast to whole numbers, and of those casts."""
    # By its name: beside `to` a cast may have attributes of later opsets, in any order.
    casts = [
        node
        for node in model.graph.node
        if node.op_type == "Cast" and any(a.name == "to" and a.i in _WHOLE for a in node.attribute)
    ]
    selected_steps = steps_to_whole_numbers(steps(model), [node.input[0] for node in casts])
    return _names(model, selected_steps) + [node.name for node in casts]


def nodes_to_magnitudes(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes from squares to roots and logarithms."""
    return _names(model, steps_to_magnitudes(steps(model)))


def nodes_from_lost_guards(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes that keep logarithms from zero by what half precision loses."""
    return _names(model, steps_from_lost_guards(steps(model)))


def _names(model: onnx.ModelProto, selected_steps: Iterable[ScalingNode]) -> list[str]:
    # By the first result: it is unique in a graph, names of nodes are optional and may be alike.
    names = {node.output[0]: node.name for node in model.graph.node}
    return [names[step.results[0]] for step in selected_steps]


def name_nodes(model: onnx.ModelProto) -> None:
    """Give a name to each node that has none: tools leave nodes out by their names."""
    taken = {node.name for graph in graphs_of(model.graph) for node in graph.node}
    for number, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}_{number}"
            # One name of two nodes would leave out both.
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Name the outputs; an inner value that bears one of these names gets another.

    ``output_names`` of `torch.onnx.export` leaves two values of one name in such a file (torch 2.13).
    """
    graph = model.graph
    new = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    inner = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    for name in sorted((inner & set(names)) - new.keys()):
        new[name] = next(f"{name}_{n}" for n in itertools.count(1) if f"{name}_{n}" not in inner)
    _rename(graph, new)


def _rename(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    for inner in graphs_of(graph):
        for value in (*inner.output, *inner.value_info, *inner.initializer):
            value.name = new.get(value.name, value.name)
        for node in inner.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]


def untyped(model: onnx.ModelProto) -> str | None:
    """The first operator whose result's type no inference of ONNX tells; those of other domains have none."""
    # Not strict: what cannot be inferred is what is asked for here, and no error.
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name for value in (*inferred.graph.value_info, *inferred.graph.output)}
    return next((n.op_type for n in model.graph.node if any(o and o not in known for o in n.output)), None)


def strip(model: onnx.ModelProto) -> None:
    """Remove what exporters note and no runtime needs: stack traces, source paths, versions, unused domains."""
    model.doc_string = ""
    model.producer_name, model.producer_version = "", ""
    del model.metadata_props[:]
    _strip_graph(model.graph)
    # ONNX's own domain has two names, and always stays: its version is what a runtime is asked for.
    used = {"", "ai.onnx", *_domains(model.graph), *(n.domain for f in model.functions for n in f.node)}
    opsets = sorted((o.domain, o.version) for o in model.opset_import if o.domain in used)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets)
    for function in model.functions:
        _clear(function)
        for node in function.node:
            _clear(node)


def _domains(graph: onnx.GraphProto) -> set[str]:
    return {node.domain for inner in graphs_of(graph) for node in inner.node}


def _strip_graph(graph: onnx.GraphProto) -> None:
    for inner in graphs_of(graph):
        _clear(inner)
        for part in (*inner.input, *inner.output, *inner.value_info, *inner.initializer, *inner.node):
            _clear(part)


def _clear(part: Any) -> None:
    part.doc_string = ""
    del part.metadata_props[:]


def runtime_floor(model: onnx.ModelProto) -> str:
    """The oldest ONNX Runtime that loads the model, by its opset, IR version and operators."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 13)
    operators = {node.op_type for graph in graphs_of(model.graph) for node in graph.node}
    floors = (
        _at_least(_RUNTIME_OF_OPSET, opset),
        _at_least(_RUNTIME_OF_IR, model.ir_version),
        *(version for operator, version in _RUNTIME_OF_OPERATOR.items() if operator in operators),
    )
    return max(floors, key=lambda version: int(version.partition(".")[2]))


def tensors(path: Path) -> Declared:
    """What a file declares; a free axis is -1.

    Raises:
        InputError: not an ONNX model, or a damaged one.
    """
    if path.suffix == ".ort":
        return _tensors_of_ort(path)
    model = load(path, with_data=False)
    # Before IR version 4 every initializer stands among the inputs, too.
    weights = {tensor.name for tensor in model.graph.initializer}
    return Declared(
        inputs=tuple(_spec(value, path) for value in model.graph.input if value.name not in weights),
        outputs=tuple(_spec(value, path) for value in model.graph.output),
        runtime_floor=runtime_floor(model),
        notes=tuple(entry.value for entry in model.metadata_props if entry.key in (MASKS_NOTE, SCALES_NOTE)),
        largest_pair_sum=next((int(e.value) for e in model.metadata_props if e.key == PAIR_SUM), None),
    )


def _tensors_of_ort(path: Path) -> Declared:
    """Of the ``.ort`` format, as ONNX Runtime reads it; which version it needs is told by the ``.onnx`` before it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, outputs = (tuple(map(_of_session, side)) for side in (session.get_inputs(), session.get_outputs()))
    return Declared(inputs, outputs)


def _of_session(value: Any) -> TensorSpec:
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(value.name, dims, {"float": "float32", "double": "float64"}.get(kind, kind))


def _at_least(floors: dict[int, str], version: int) -> str:
    known = [v for v in floors if v >= version]
    # Newer than the table: the release here is the oldest that is known to load it.
    return floors[min(known)] if known else ".".join(metadata.version("onnxruntime").split(".")[:2])


def _spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    kind = value.type.tensor_type
    if kind.elem_type not in onnx.TensorProto.DataType.values():
        known = max(onnx.TensorProto.DataType.values())
        raise InputError(
            f"{path}: the tensor '{value.name}' is of type {kind.elem_type}, and onnx {onnx.__version__} knows those up"
            f" to {known}; export the model again"
        )
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else "unknown"
    return TensorSpec(value.name, dims, dtype)

"""What stands for minus infinity in attention, in fewer bits than it needs.

In half precision the least float32 becomes minus infinity: a row whose every place is masked then gives NaN in the
softmax, and zero times it gives NaN as well. In 8 bits the scores beside it are rounded to one.
Runs in a child process.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import fx

__all__ = ["BOUND", "bound_masks", "masking_nodes", "masking_operators"]

_LEAST = float(np.finfo(np.float16).min)
# What computes with numbers, of the above: a whole one among the others' operands is a size or a place.
_COMPUTES = {
    *("add", "sub", "mul", "div", "truediv", "where", "masked_fill", "full", "full_like", "maximum", "minimum"),
    "clamp",
}
BOUND = -30_000.0  # two of them added, and scores of thousands beside them, are still in the range of half precision
_SOFTMAX = {
    *("softmax", "_softmax", "log_softmax", "_log_softmax", "Softmax", "LogSoftmax", "SOFTMAX", "LOG_SOFTMAX"),
    "scaled_dot_product_attention",
}
# What a mask passes on its way to the scores, by the names of torch, ONNX and LiteRT.
_PASSES = {
    *(
        "add",
        "sub",
        "mul",
        "div",
        "truediv",
        "where",
        "masked_fill",
        "expand",
        "reshape",
        "view",
        "unsqueeze",
        "squeeze",
    ),
    *(
        "to",
        "getitem",
        "permute",
        "transpose",
        "cat",
        "broadcast_to",
        "clone",
        "contiguous",
        "full",
        "full_like",
        "slice",
    ),
    *("select", "type_as", "maximum", "minimum", "clamp", "repeat", "flatten", "tile", "index_select", "_to_copy"),
    *(
        "_unsafe_view",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Where",
        "Expand",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Cast",
        "Slice",
    ),
    *("Transpose", "Concat", "Max", "Min", "Clip", "Tile", "Flatten", "Gather", "Identity", "Trilu"),
    *("ADD", "SUB", "MUL", "DIV", "SELECT", "SELECT_V2", "BROADCAST_TO", "RESHAPE", "EXPAND_DIMS", "SQUEEZE", "CAST"),
    *("SLICE", "STRIDED_SLICE", "TRANSPOSE", "CONCATENATION", "PACK", "MAXIMUM", "MINIMUM", "TILE", "GATHER"),
}


def bound_masks(graph: "fx.GraphModule") -> str:
    """Bound the constants of a torch graph that mask a softmax, in place, by a number that half precision has and that
    masks as well; returns what is said of it, empty where there are none."""
    from torch import fx

    def kind(node: Any) -> str:
        if node.op == "call_module":
            return type(graph.get_submodule(str(node.target))).__name__
        return str(getattr(node.target, "__name__", node.target)).partition(".")[0]

    nodes = list(graph.graph.nodes)
    masking = _reaching(nodes, kind, lambda node: node.users)
    # Its mask is an operand of its own, and no softmax stands in the graph.
    masking |= {node for node in nodes if kind(node) == "scaled_dot_product_attention"}
    changed: list[float] = []

    def bounded(value: Any) -> Any:
        # torch makes a whole number what it is computed with: a mask of -1000000000 is a real one.
        if isinstance(value, (int, float)) and math.isfinite(value) and value < _LEAST:
            changed.append(value)
            return type(value)(BOUND)
        return value

    for node in nodes:
        if node.op == "get_attr" and any(user in masking for user in node.users):
            changed += _bound_tensor(graph, str(node.target))
        elif node in masking and kind(node) in _COMPUTES:
            node.args = fx.node.map_aggregate(node.args, bounded)
            node.kwargs = fx.node.map_aggregate(node.kwargs, bounded)
    graph.recompile()
    if not changed:
        return ""
    return f"masks of {_told(changed)} became {BOUND:g}: half precision has nothing below {_LEAST:g}"


def _bound_tensor(graph: "fx.GraphModule", target: str) -> list[float]:
    import torch

    owner, _, leaf = target.rpartition(".")
    tensor = getattr(graph.get_submodule(owner), leaf)
    # A whole one may be cast on its way; of truth values and complex ones nothing is less than the other.
    if not isinstance(tensor, torch.Tensor) or tensor.dtype is torch.bool or tensor.is_complex():
        return []
    low = torch.isfinite(tensor) & (tensor < _LEAST)
    values = [float(value) for value in tensor[low].unique()]
    with torch.no_grad():
        if values:  # of types that do not hold the bound, no number is below it
            tensor.data = torch.where(low, torch.full_like(tensor, BOUND), tensor)
    return values


def masking_nodes(model: "onnx.ModelProto", *, is_int8: bool) -> tuple[list[str], str]:
    """The names of an ONNX graph's nodes from such a constant to the softmax that it masks, and what is said of them.

    A runtime without half precision widens some of them and not others, so a bound would mean one thing here and
    another there: they stay float32, whose least number masks as in the model. Half precision has minus infinity
    itself, int8 (``is_int8``) has not.
    """
    from onnx import TensorProto, numpy_helper

    low = {
        tensor.name: _low(numpy_helper.to_array(tensor), with_infinity=is_int8)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    nodes = model.graph.node
    numbers, note = _masking([n.op_type for n in nodes], [n.input for n in nodes], [n.output for n in nodes], low)
    return [nodes[number].name for number in numbers], note


def masking_operators(model: Any) -> tuple[list[Any], str]:
    """The same of a `.tflite` on its way to int8: its operators."""
    from edgewright.export import tflite

    graph = model.subgraphs[0]
    low = {}
    for number, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        if data is not None and tflite.DTYPES[tensor.type] == "float32":
            low[number] = _low(np.asarray(data).view("<f4"), with_infinity=True)
    kinds = [tflite.operator_name(model, operator) for operator in graph.operators]
    sides = [[list(map(int, side)) for side in (o.inputs, o.outputs)] for o in graph.operators]
    numbers, note = _masking(kinds, [reads for reads, _ in sides], [gives for _, gives in sides], low)
    return [graph.operators[number] for number in numbers], note


def _low(values: np.ndarray, *, with_infinity: bool) -> list[float]:
    low = values[values < _LEAST]
    return [float(value) for value in np.unique(low if with_infinity else low[np.isfinite(low)])]


def _told(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in sorted(set(values)))


def _masking(
    kinds: Sequence[str], reads: Sequence[Sequence[Any]], gives: Sequence[Sequence[Any]], low: dict[Any, list[float]]
) -> tuple[list[int], str]:
    """The numbers of the operators from a constant that is too low to a softmax, and what is said of them."""
    readers: dict[Any, list[int]] = {}
    for number, names in enumerate(reads):
        for name in names:
            readers.setdefault(name, []).append(number)

    def users(number: int) -> list[int]:
        return [reader for name in gives[number] for reader in readers.get(name, ())]

    # Backward from the softmax: what may carry a mask. Forward from the constants, below: what does carry one.
    masking = _reaching(range(len(kinds)), kinds.__getitem__, users)
    masks = {name: values for name, values in low.items() if values and masking & set(readers.get(name, ()))}
    numbers = {number for name in masks for number in readers[name] if number in masking}
    pending = list(numbers)
    while pending:
        behind = {n for n in users(pending.pop()) if n in masking or kinds[n] in _SOFTMAX} - numbers
        numbers |= behind
        pending += [n for n in behind if n in masking]
    mask_text = _told(value for values in masks.values() for value in values)
    note = (
        f"masks of {mask_text} stay float32, and {len(numbers)} operators up to the softmax:"
        " fewer bits have no such number"
    )
    return sorted(numbers), note if numbers else ""


def _reaching(nodes: Iterable[Any], kind: Callable[[Any], str], users: Callable[[Any], Iterable[Any]]) -> set[Any]:
    """The nodes from which a softmax is reached by what passes a mask on, the softmax left out."""
    mask_nodes: set[Any] = set()
    # Readers stand behind what they read, so one pass backward is enough.
    for node in reversed(list(nodes)):
        if kind(node) in _PASSES and any(user in mask_nodes or kind(user) in _SOFTMAX for user in users(node)):
            mask_nodes.add(node)
    return mask_nodes

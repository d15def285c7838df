"""Operations that a converter does not know, written in ones that it does: our own forms first, then torch's.

Each form is an ordinary function of torch with the operation's own arguments; it is traced on the values that the
operation has in the graph, so sizes are numbers. Runs in a child process: imports torch.
"""

import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from edgewright.export.convolution_forms import CONVOLUTION_FORMS
from edgewright.export.number_forms import NUMBER_FORMS
from edgewright.export.padding_form import padded
from edgewright.export.pooling_forms import POOLING_FORMS
from edgewright.export.recurrent_forms import RECURRENT_FORMS
from edgewright.export.resize_forms import RESIZE_FORMS
from edgewright.export.special_functions import SPECIAL_FUNCTIONS
from edgewright.export.static_graph import NodeValues
from edgewright.intake.module_paths import free_name, place

__all__ = [
    "FORMS",
    "has_factor",
    "is_outer",
    "lowered",
    "recurrent_layers_as_operations",
]

Tensor = torch.Tensor
_ROUNDS = 4


def lowered(
    module: fx.GraphModule,
    examples: tuple[Tensor, ...],
    is_known: Callable[[fx.Node, NodeValues], bool],
    own: Mapping[str, Callable[..., Any]] | None = None,
) -> fx.GraphModule:
    """A copy without the operations that are not known, as far as they have another form.

    Args:
        module: a graph for the examples' shapes.
        examples: one input each.
        is_known: whether the converter takes a node, given the values in the graph.
        own: forms for this converter alone, by the operation's name.
    """
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    forms = {**FORMS, **(own or {})}
    for _ in range(_ROUNDS):  # a form may hold what has a form of its own
        values = NodeValues.of(module, examples)
        nodes = [n for n in module.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
        unknown = [n for n in nodes if not is_known(n, values)]
        before = [str(n.target) for n in unknown]
        for node in unknown:
            _rewrite(module, node, values, set(before), forms)
        module.graph.eliminate_dead_code()
        module.recompile()
        if not unknown:
            break
    return module


def _rewrite(
    module: fx.GraphModule,
    node: fx.Node,
    values: NodeValues,
    unknown: set[str],
    forms: Mapping[str, Callable[..., Any]],
) -> None:
    from torch._decomp import decomposition_table
    from torch.fx.experimental.proxy_tensor import make_fx

    given = node.all_input_nodes
    form: Callable[..., Any] = forms.get(str(node.target), node.target)  # type: ignore[arg-type]

    def call(*tensors: Tensor) -> Any:
        by_node = dict(zip(given, tensors, strict=True))
        arguments, named = fx.node.map_arg((node.args, node.kwargs), lambda n: by_node[n])
        return form(*arguments, **named)

    # What has a form may stand in a form, in a way that is known.
    table: Any = {op: f for op, f in decomposition_table.items() if str(op) in unknown and str(op) not in forms}
    with torch.no_grad():
        inner = make_fx(call, decomposition_table=table)(*(values.env[n] for n in given))
    _inline(module, node, inner, given, values)


def _inline(
    module: fx.GraphModule, node: fx.Node, inner: fx.GraphModule, given: Sequence[fx.Node], values: NodeValues
) -> None:
    operands = iter(given)
    counterparts: dict[fx.Node, Any] = {}
    result: Any = None
    with module.graph.inserting_before(node):
        for step in inner.graph.nodes:
            if step.op == "placeholder":
                counterparts[step] = next(operands)
            elif step.op == "get_attr":
                # A constant of the form becomes one of the module, under a name that nothing has.
                path = free_name(module, f"{node.name}_{step.target}")
                place(module, path, getattr(inner, str(step.target)).detach())
                counterparts[step] = module.graph.get_attr(path)
            elif step.op == "output":
                result = fx.node.map_arg(step.args[0], lambda n: counterparts[n])
            else:
                counterparts[step] = module.graph.node_copy(step, lambda n: counterparts[n])
    if isinstance(result, fx.Node):
        values.env[result] = values.env[node]
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):
            # Several results are read by getitem: each reader is the part itself.
            values.env[result[user.args[1]]] = values.env[user]
            user.replace_all_uses_with(result[user.args[1]])
            module.graph.erase_node(user)
    module.graph.erase_node(node)


def recurrent_layers_as_operations(
    module: fx.GraphModule, examples: tuple[Tensor, ...], kinds: tuple[type[nn.RNNBase], ...]
) -> fx.GraphModule:
    """A copy, for the examples' shapes, in which recurrent layers of these kinds are operations on their weights."""
    module = copy.copy(module)
    module.graph = copy.deepcopy(module.graph)
    called = [(n, module.get_submodule(str(n.target))) for n in module.graph.nodes if n.op == "call_module"]
    layers = [(node, layer) for node, layer in called if isinstance(layer, kinds)]
    if not layers:
        return module
    values = NodeValues.of(module, examples)
    # Before anything is replaced: one layer may read another's state.
    shapes = [values.env[node.args[0]].shape for node, _ in layers]
    for (node, layer), shape in zip(layers, shapes, strict=True):
        # (steps, batch, inputs), or the batch first; inside a model it may be another than the model's own.
        _as_operation(module, node, layer, shape[0 if layer.batch_first else 1])
    module.recompile()
    return module


def _as_operation(module: fx.GraphModule, node: fx.Node, layer: nn.RNNBase, batch: int) -> None:
    is_lstm = isinstance(layer, nn.LSTM)
    name = layer.mode.lower()
    operation = getattr(torch.ops.aten, name).input
    with module.graph.inserting_before(node):
        weights = [module.graph.get_attr(f"{node.target}.{n}") for n in layer._flat_weights_names]
        given, state = node.args[0], node.args[1] if len(node.args) > 1 else None
        if state is None:
            state = _no_state(module, node, layer, batch, is_lstm=is_lstm)
        # (has_biases, num_layers, dropout, train, bidirectional, batch_first) of the operation.
        settings = (layer.bias, layer.num_layers, layer.dropout, False, layer.bidirectional, layer.batch_first)
        call = module.graph.call_function(operation, (given, state, weights, *settings))
        for user in list(node.users):
            # The layer gives (output, (h, c)), the operation (output, h, c).
            if is_lstm and user.args[1] == 1:
                for inner in list(user.users):
                    taken = module.graph.call_function(operator.getitem, (call, inner.args[1] + 1))  # type: ignore[operator]
                    inner.replace_all_uses_with(taken)
                    module.graph.erase_node(inner)
                module.graph.erase_node(user)
            else:
                user.replace_input_with(node, call)
    module.graph.erase_node(node)


def _no_state(module: fx.GraphModule, node: fx.Node, layer: nn.RNNBase, batch: int, *, is_lstm: bool) -> Any:
    """A state of zeros for each row of the batch."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)

    def zeros(width: int) -> fx.Node:
        path = free_name(module, f"{node.name}_state")
        place(module, path, torch.zeros(rows, batch, width))
        return module.graph.get_attr(path)

    if is_lstm:
        return [zeros(layer.proj_size or layer.hidden_size), zeros(layer.hidden_size)]
    return zeros(layer.hidden_size)


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> Sequence[Tensor]:
    # Rounded up: the last chunk may be smaller.
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    """Of batches as one of four axes; of one column with one row, each number times each."""
    if is_outer(x, y):
        return x * y
    if x.dim() != 3 or y.dim() != 3:
        return torch.matmul(x, y)
    return torch.matmul(x.unsqueeze(1), y.unsqueeze(1)).squeeze(1)


def _split(x: Tensor, size: int, dim: int = 0) -> Sequence[Tensor]:
    return [x.narrow(dim, start, min(size, x.shape[dim] - start)) for start in range(0, x.shape[dim], size)]


def _split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> Sequence[Tensor]:
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True)]


def _col2im(x: Tensor, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    """Overlapping patches summed: a transposed convolution with one unit weight for each place of the kernel."""
    area = math.prod(kernel_size)
    channels = x.shape[-2] // area
    steps = [
        (output_size[i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    ]
    # (channels * area, 1, *kernel): each has its one at another place of the kernel.
    weight = torch.eye(area).reshape(area, 1, *kernel_size).repeat(channels, 1, 1, 1)
    covered = [(steps[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel_size[i] - 1) + 1 for i in (0, 1)]
    # What no patch reaches at the far end.
    rest = [output_size[i] - covered[i] for i in (0, 1)]
    given = x.reshape(-1, x.shape[-2], *steps)
    image = functional.conv_transpose2d(given, weight, None, stride, padding, rest, channels, dilation)
    return image if x.dim() == 3 else image.squeeze(0)  # (channels * area, places) has no batch


def _rsub(x: Tensor, other: float, alpha: float = 1) -> Tensor:
    # In the type that both give together, before anything is multiplied: a real less a whole is real.
    return x.to(torch.result_type(x, other)).mul(-alpha).add(other)


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """The largest of one value more than there are: converters know them from a sort by what is left out."""
    rows = x.movedim(dim, -1) if x.dim() else x.reshape(1)
    keys, count = _keys(rows, largest=descending), rows.shape[-1]
    least = -math.inf if keys.is_floating_point() else torch.iinfo(keys.dtype).min
    padded_keys = torch.cat([keys, keys.new_full((), least).expand(*keys.shape[:-1], 1)], -1)
    places = padded_keys.topk(count, -1).indices
    # What was added may stand for a number that is equal to it: in its place comes the one that was left out.
    left_out = count * (count + 1) // 2 - places.sum(-1, keepdim=True)
    places = torch.where(places == count, left_out, places)
    # As the keys are held, since Core ML gathers no truth values.
    values = (keys if descending else _keys(keys, largest=False)).gather(-1, places).to(x.dtype)
    return (values.movedim(-1, dim), places.movedim(-1, dim)) if x.dim() else (values.squeeze(), places.squeeze())


def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:  # noqa: A002
    """The largest of the last axis, by their places: LiteRT's converter knows no other."""
    places = _keys(x, largest=largest).movedim(dim, -1).topk(k, -1).indices.movedim(-1, dim)
    return x.gather(dim, places), places


def _keys(x: Tensor, *, largest: bool) -> Tensor:
    """Numbers whose largest stand where the largest, or the smallest, of these stand."""
    if x.is_floating_point():
        return x if largest else -x
    # Unsigned numbers have no negatives, truth values no order, and the least whole number has no opposite.
    whole = x if x.dtype in {torch.int32, torch.int64} else x.to(torch.int32)
    return whole if largest else -1 - whole


def _unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    dimension %= x.dim()
    count = (x.shape[dimension] - size) // step + 1
    windows = [x.narrow(dimension, start * step, size) for start in range(count)]
    return torch.stack(windows, dimension).movedim(dimension + 1, -1)


def is_outer(x: Tensor, y: Tensor) -> bool:
    """Whether a product of matrices sums over a single number."""
    return min(x.dim(), y.dim()) >= 2 and x.shape[-1] == 1


def has_factor(node: fx.Node) -> bool:
    """Whether this is a sum or a difference that takes its second operand some times."""
    takes_one = str(node.target) in {"aten.add.Tensor", "aten.sub.Tensor", "aten.rsub.Scalar"}
    return takes_one and bool(node.kwargs.get("alpha", (*node.args[2:], 1)[0]) != 1)


FORMS: Mapping[str, Callable[..., Any]] = {
    **RECURRENT_FORMS,
    **CONVOLUTION_FORMS,
    **NUMBER_FORMS,
    **SPECIAL_FUNCTIONS,
    **POOLING_FORMS,
    **RESIZE_FORMS,
    "aten.matmul.default": _matmul,
    "aten.bmm.default": _matmul,
    "aten.chunk.default": _chunk,
    "aten.unsafe_chunk.default": _chunk,
    "aten.col2im.default": _col2im,
    "aten.copy.default": lambda x, source: source.to(x.dtype).expand_as(x),
    "aten.fill.Tensor": lambda x, value: value.to(x.dtype).expand_as(x),
    "aten.sort.default": _sort,
    "aten.sort.stable": lambda x, *, stable, dim=-1, descending=False: _sort(x, dim, descending),
    "aten.argsort.default": lambda x, dim=-1, descending=False: _sort(x, dim, descending)[1],
    "aten.argsort.stable": lambda x, *, stable, dim=-1, descending=False: _sort(x, dim, descending)[1],
    "aten.topk.default": _topk,
    "aten.pad.default": padded,
    "aten.constant_pad_nd.default": lambda x, pad, value=0: padded(x, pad, "constant", value),
    "aten.unfold.default": _unfold,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split_with_sizes,
    "aten.unsafe_split.Tensor": _split,
    # A tensor, since torch makes a reciprocal of a plain number that is divided by one.
    "aten.reciprocal.default": lambda x: torch.tensor(1.0) / x,
    "aten.add.Tensor": lambda x, y, alpha=1: x + y * alpha,
    "aten.sub.Tensor": lambda x, y, alpha=1: x - y * alpha,
    "aten.rsub.Scalar": _rsub,
}
"""By the operation's name: functions of its own arguments."""

"""Operations of ATen that compute with parameters become the layers that they were: what techniques work on.

A layer's weights are the very tensors of the program, so what it shares stays shared, and one set of weights and
settings is one layer however often it is called. Runs in a child process: imports torch.
"""

from typing import Any

import torch
from torch import fx, nn

from edgewright.intake.layer_forms import MAKERS, Call, Form
from edgewright.intake.module_paths import free_name, place, plain_path, tensor_at
from edgewright.intake.recurrent_layers import RECURRENT, raise_recurrent

__all__ = ["raise_layers"]

_RESHAPE = torch.ops.aten.reshape.default
_FLATTEN = torch.ops.aten.flatten.using_ints
_FOLDED = {"weight", "bias"}
_LONGEST_CHAIN = 32  # operations between parameters and the weight that they make


def raise_layers(module: fx.GraphModule) -> None:
    """Replace each call that has a layer by it, in place."""
    # Weights first: a layer is raised only where its weight is a tensor of the module.
    _fold_weights(module)
    _drop_unread(module)
    layer_paths: dict[tuple[Any, ...], str] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if str(node.target) in RECURRENT:
            raise_recurrent(module, node, _layer_path(node))
        elif str(node.target) in MAKERS:
            form = MAKERS[str(node.target)](Call(node))
            if form is not None and _is_layer(form) and not (form.first and _is_read_beside_the_first(node)):
                _replace(module, node, form, layer_paths)
        elif node.target is _RESHAPE:
            _without_sizes(node)
    module.graph.eliminate_dead_code()
    _drop_unread(module)


def _is_layer(form: Form) -> bool:
    """With tensors of its own that the module holds, or Dropout: everything else may stay an operation."""
    given = [n for n in form.tensors.values() if n is not None]
    return all(n.op == "get_attr" for n in given) and (bool(given) or form.kind is nn.Dropout)


def _is_read_beside_the_first(node: fx.Node) -> bool:
    """Whether a result is read that the layer does not give (a mean, an inverse deviation)."""
    return any(user.args[1] != 0 and user.users for user in node.users)


def _replace(module: fx.GraphModule, node: fx.Node, form: Form, layer_paths: dict[tuple[Any, ...], str]) -> None:
    held = {own: str(n.target) for own, n in form.tensors.items() if n is not None}
    key = (form.kind, repr(form.settings), tuple(held.items()))
    # Dropout has no weights to be known by: each call keeps its own.
    if not held or key not in layer_paths:
        layer_paths[key] = _install(module, node, form, held)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(layer_paths[key], form.operands)
    call.meta = dict(node.meta)
    if form.first:
        call.meta["val"] = node.meta["val"][0]
        # The others, kept for the backward pass, are not read.
        for user in list(node.users):
            user.replace_all_uses_with(call)
            module.graph.erase_node(user)
    else:
        node.replace_all_uses_with(call)
    module.graph.erase_node(node)


def _install(module: fx.GraphModule, node: fx.Node, form: Form, held: dict[str, str]) -> str:
    """Make the layer of the program's own tensors and put it where they lie."""
    # No memory and no time for initial weights, which are replaced below.
    with torch.device("meta"):
        layer = form.kind(**form.settings)
    owner, _, leaf = held["weight" if "weight" in held else next(iter(held))].rpartition(".") if held else ("", "", "")
    holder = module.get_submodule(owner)
    for own, buffer in list(layer.named_buffers(recurse=False)):
        # num_batches_tracked may be missing from the program; BatchNorm counts in training only.
        layer._buffers[own] = holder._buffers.get(own, torch.zeros((), dtype=buffer.dtype))
    for own, name in held.items():
        _give(layer, own, tensor_at(module, name))
    # The holder becomes the layer only where it holds nothing else: a path that others read must stay.
    names = {*holder._parameters, *holder._buffers} - {"num_batches_tracked"}
    own_names = {name.rpartition(".")[2] for own, name in held.items() if name == f"{owner}.{own}"}
    if owner and names <= own_names and not holder._modules and type(holder) is nn.Module:
        path = owner
    else:
        stem = leaf.removesuffix("weight").rstrip("_") or "layer"
        beside = f"{owner}.{stem}" if owner else _layer_path(node)
        path = free_name(module, beside or node.name)
    place(module, path, layer.eval())
    return path


def _give(layer: nn.Module, own: str, tensor: torch.Tensor) -> None:
    if own in layer._parameters:
        # By default a parameter asks for a gradient, which integers cannot have.
        frozen = nn.Parameter(tensor, requires_grad=tensor.requires_grad)
        layer._parameters[own] = tensor if isinstance(tensor, nn.Parameter) else frozen
    else:
        layer._buffers[own] = tensor.detach()


def _fold_weights(module: fx.GraphModule) -> None:
    """A weight that follows from parameters alone (weight norm, standardization, joined biases) becomes one."""
    values: dict[fx.Node, torch.Tensor] = {}
    computed = _following_from_parameters(module.graph)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or str(node.target) not in MAKERS:
            continue
        # addmm calls its bias "self".
        biases = {"self": "bias"} if str(node.target) == "aten.addmm.default" else {}
        for name, given in Call(node).nodes().items():
            own = biases.get(name, name)
            if own in _FOLDED and given in computed:
                if given not in values:
                    values[given] = _value(module, given, {})
                path = free_name(module, f"{_layer_path(node)}.{own}".lstrip("."))
                place(module, path, nn.Parameter(values[given].detach().clone()))
                with module.graph.inserting_before(node):
                    folded = module.graph.get_attr(path)
                # The fake tensor of the computed weight, whose shape and dtype the folded one has.
                folded.meta = dict(given.meta)
                node.replace_input_with(given, folded)
    module.graph.eliminate_dead_code()


def _following_from_parameters(graph: fx.Graph) -> set[fx.Node]:
    """The operations whose result follows from parameters, by chains of no more than `_LONGEST_CHAIN` operations."""
    # Operands stand before what reads them: one pass, however often a node is read.
    lengths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        operands = node.all_input_nodes
        if node.op == "get_attr":
            lengths[node] = 0
        elif node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor) and operands:
            length = 1 + max(lengths.get(operand, _LONGEST_CHAIN) for operand in operands)
            if length <= _LONGEST_CHAIN:
                lengths[node] = length
    return {node for node in lengths if node.op == "call_function"}


def _value(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    """What a node computes; ``known`` holds what was computed on the way to it, each once."""
    if node.op == "get_attr":
        return tensor_at(module, str(node.target))
    if node not in known:
        arguments, named = fx.node.map_arg((node.args, node.kwargs), lambda n: _value(module, n, known))
        with torch.no_grad():
            known[node] = node.target(*arguments, **named)  # type: ignore[operator]
    return known[node]


def _layer_path(node: fx.Node) -> str:
    """The source's own name of the module in which a node computes; "" where the program does not say."""
    stack = node.meta.get("nn_module_stack") or {}
    # Ordered from the outermost module to the innermost, each as (path, class).
    path = next(reversed(stack.values()))[0] if stack else ""
    return plain_path(path)


def _without_sizes(node: fx.Node) -> None:
    """Write a reshape without the sizes that may change: the batch is -1, axes that are joined are a flatten, since
    channels that were pruned are fewer."""
    operand, wanted = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    given, becomes = operand.meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
    if len(becomes) == 2 and len(given) > 2 and becomes[0] == given[0] and isinstance(becomes[1], int):
        node.target, node.args = _FLATTEN, (operand, 1)
        return
    computed = [place for place, size in enumerate(wanted) if isinstance(size, fx.Node)]
    # One -1 at most may stand in a reshape: what it stands for is written, where that never changes.
    if len(computed) == 1 and -1 in wanted and isinstance(becomes[wanted.index(-1)], int):
        wanted[wanted.index(-1)] = becomes[wanted.index(-1)]
    if len(computed) == 1 and -1 not in wanted:
        wanted[computed[0]] = -1
        node.args = (operand, wanted)


def _drop_unread(module: fx.GraphModule) -> None:
    """Remove tensors that no node reads."""
    read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    for path, holder in list(module.named_modules()):
        # Layers hold their own tensors, which no get_attr reads.
        if type(holder) not in {nn.Module, type(module)}:
            continue
        for table in (holder._parameters, holder._buffers):
            for leaf in list(table):
                if f"{path}.{leaf}".lstrip(".") not in read and leaf != "num_batches_tracked":
                    del table[leaf]

"""A program without operations that work in place. Runs in a child process: imports torch.

Where every such operation only overwrites what nothing else reads afterwards (``relu_``, ``add_``), its name alone is
changed. Anything else (writing into a slice, say) is left to torch's own functionalization, which traces the program
anew and takes seconds.
"""

import operator
from typing import Any

import torch
from torch import fx

__all__ = ["functional"]

# Their results may be their operand although the schema does not say so.
_ALIASES = ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "reshape", "to", "type_as", "expand_as")


def functional(program: Any) -> Any:
    """The program, or an equal one whose operations change none of their operands."""
    writing = [n for n in program.graph.nodes if _writes(n)]
    if not writing and not _has_region(program.graph, _writes):
        return program
    if _has_region(program.graph, _writes) or not all(_renamed(n) is not None for n in writing):
        return program.run_decompositions({})
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    bases = _bases(program.graph)
    if not all(_overwrites_only(node, order, bases) for node in writing):
        return program.run_decompositions({})
    for node in writing:
        operand = node.args[0]
        later = [user for user in operand.users if order[user] > order[node]]
        for user in later:
            user.replace_input_with(operand, node)
        node.target = _renamed(node)
    program.graph_module.recompile()
    return program


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _has_region(graph: fx.Graph, wanted: Any) -> bool:
    """Whether a node inside a nested graph (a region without gradient) is one of the wanted."""
    for node in graph.nodes:
        if node.op == "get_attr":
            inner = getattr(graph.owning_module, str(node.target), None)
            if isinstance(inner, fx.GraphModule) and any(wanted(n) for n in inner.graph.nodes):
                return True
    return False


def _renamed(node: fx.Node) -> Any:
    """The operation that gives the same result anew, of the same overload; None where torch has none."""
    name, _, overload = str(node.target).removeprefix("aten.").partition(".")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    operation = getattr(packet, overload, None)
    return operation if operation is not None and not operation._schema.is_mutable else None


def _bases(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For each node the one that made the memory which it may share."""
    bases: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        operand = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        bases[node] = bases[operand] if operand is not None and _may_share(node) else node
    return bases


def _may_share(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    if schema.name.removeprefix("aten::") in _ALIASES:
        return True
    return any(r.alias_info is not None for r in schema.returns)


def _overwrites_only(node: fx.Node, order: dict[fx.Node, int], bases: dict[fx.Node, fx.Node]) -> bool:
    """Whether no other name of the memory that a node writes is read after it."""
    operand = node.args[0]
    if not isinstance(operand, fx.Node) or any(isinstance(a, fx.Node) and a is operand for a in node.args[1:]):
        return False
    base = bases[operand]
    # What was made from the result later carries its value; every other name of the memory would keep the old one.
    follows = {node}
    for other in sorted((n for n in bases if bases[n] is base), key=lambda n: order[n]):
        if other.args and order[other] > order[node] and other.args[0] in {*follows, operand}:
            follows.add(other)
    for other, its in bases.items():
        if its is not base or other in follows or other is operand:
            continue
        if any(order[user] > order[node] for user in other.users):
            return False
    return base.op != "placeholder" or base.name not in _held(node.graph)


def _held(graph: fx.Graph) -> set[str]:
    """Placeholders that are parameters or buffers: what is written there would have to last."""
    return {n.name for n in graph.nodes if n.op == "placeholder" and n.name.startswith(("p_", "b_", "c_"))}

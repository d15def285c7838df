"""Which nodes of an ONNX graph its outputs need. Runs in a child process: imports onnx."""

import onnx

__all__ = ["drop_unused", "needed_nodes"]


def needed_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in their order; a subgraph's reads of outer names count."""
    wanted = {entry.name for entry in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1]


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and initializers that no output depends on."""
    nodes = needed_nodes(model.graph)
    read = {name for node in nodes for name in _reads(node)} | {o.name for o in model.graph.output}
    constants = [i for i in model.graph.initializer if i.name in read]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs]:
            names.update(entry.name for entry in inner.output)
            for child in inner.node:
                names |= _reads(child)
    return names

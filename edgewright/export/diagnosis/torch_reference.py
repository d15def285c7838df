"""A torch graph as a reference. Runs in a child process: imports torch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from edgewright.export.diagnosis.inside import array_of, inside_of, stacked
from edgewright.export.diagnosis.reference import Node, Reference
from edgewright.export.runs import Arrays
from edgewright.intake import torch_graph

__all__ = ["graph_reference", "torch_reference"]


def torch_reference(path: Path, rows: Sequence[Arrays]) -> Reference:
    """Of a graph's file; each row is {input: (1, ...)} in the order of the model's inputs."""
    return graph_reference(torch_graph.load(path), rows)


def graph_reference(graph: fx.GraphModule, rows: Sequence[Arrays]) -> Reference:
    """Of a graph in memory."""
    model = graph.eval()
    given = [tuple(torch.from_numpy(np.ascontiguousarray(column)) for column in row.values()) for row in rows]
    run = _Run(model)
    values = stacked([run.noted(row) for row in given])

    def inside(node: Node) -> tuple[list[Node], dict[str, np.ndarray]]:
        fx_node = run.sources[node.name]
        if fx_node.op == "placeholder":
            return [], {}
        function, inputs, reads = run.alone(fx_node, given)
        return inside_of(replace(node, reads=reads), function, inputs)

    return Reference(run.nodes, values, run.outputs, inside)


class _Run(fx.Interpreter):
    """One run after the other; the nodes are those of the first."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model, garbage_collect_values=False)
        self.nodes: list[Node] = []
        self.outputs: list[str] = []
        self.sources: dict[str, fx.Node] = {}
        self._names: dict[fx.Node, tuple[str, ...]] = {}
        self._values: dict[str, np.ndarray] = {}
        self._kept: list[dict[fx.Node, Any]] = []

    def noted(self, row: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
        """Every value of a row."""
        self.nodes, self._values = [], {}
        with torch.no_grad():
            self.run(*row)
        return self._values

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "output":
            given = n.args[0] if isinstance(n.args[0], (tuple, list)) else (n.args[0],)
            self.outputs = [next(iter(self._names[one]), one.name) for one in given if isinstance(one, fx.Node)]
        elif n.op == "get_attr":
            self._names[n] = ()
        else:
            self._names[n] = self._note(n, value)
        return value

    def _note(self, n: fx.Node, value: Any) -> tuple[str, ...]:
        layer = str(n.target) if n.op == "call_module" else n.name
        reads = tuple(dict.fromkeys(name for one in n.all_input_nodes for name in self._names[one]))
        parts = list(value) if isinstance(value, (tuple, list)) else [value]
        names = [n.name] if len(parts) == 1 else [f"{n.name}.{i}" for i in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            self.nodes.append(Node(name, layer, self._kind(n), reads))
            self.sources[name] = n
            if isinstance(part, torch.Tensor):
                self._values[name] = array_of(part)
        return tuple(names)

    def _kind(self, n: fx.Node) -> str:
        if n.op == "call_module":
            return type(self.module.get_submodule(str(n.target))).__name__
        if n.op == "placeholder":
            return "input"
        return str(getattr(n.target, "__name__", n.target)).removesuffix(".default")

    def alone(
        self, n: fx.Node, rows: Sequence[tuple[torch.Tensor, ...]]
    ) -> tuple[Callable[..., Any], list[tuple[torch.Tensor, ...]], tuple[str, ...]]:
        """A function of the tensors that a node reads, these tensors for each row, and the names of their values."""
        # All tensors of all rows take much memory: they are kept only once a layer is opened.
        if not self._kept:
            with torch.no_grad():
                for row in rows:
                    self.run(*row)
                    self._kept.append(dict(self.env))
        known = self._kept[0]
        read = [one for one in n.all_input_nodes if one.op != "get_attr" and isinstance(known[one], torch.Tensor)]

        def function(*values: torch.Tensor) -> Any:
            # What is not a tensor, as a size, is that of the first row.
            at = {**known, **dict(zip(read, values, strict=True))}
            args: Any = fx.map_arg(n.args, at.__getitem__)
            kwargs: Any = fx.map_arg(n.kwargs, at.__getitem__)
            if n.op == "call_module":
                return self.module.get_submodule(str(n.target))(*args, **kwargs)
            return n.target(*args, **kwargs) if callable(n.target) else getattr(args[0], str(n.target))(*args[1:])

        names = tuple(self._names[one][0] for one in read)
        return function, [tuple(env[one] for one in read) for env in self._kept], names

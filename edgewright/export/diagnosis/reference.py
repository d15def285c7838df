"""The computation that an export is compared with: every value that it gives on a few rows, and what each rests on.

Runs in a child process: imports torch or onnxruntime.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgewright.export.diagnosis.layouts import Shape
from edgewright.export.diagnosis.values import Print, print_of, tells

__all__ = ["Node", "Reference"]


@dataclass(frozen=True)
class Node:
    """One value of the reference: ``layer`` is the module's path or the node's name, ``kind`` what computes it.

    ``inner``: a value inside of a layer, which the layer's own operators give on the way to its result.
    """

    name: str
    layer: str
    kind: str
    reads: tuple[str, ...]
    inner: bool = False


class Reference:
    """Nodes in order of computation, and their values as stacks (rows, *shape of one row).

    ``outputs`` are the values that the model's outputs are, in the model's order. A node whose shape changes from row
    to row, or that gives no array, has no value and stays a link between others.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        values: dict[str, np.ndarray],
        outputs: Sequence[str],
        inside: Callable[[Node], "tuple[list[Node], dict[str, np.ndarray]]"],
    ) -> None:
        self.nodes, self.values, self.outputs = list(nodes), values, list(outputs)
        self._inside = inside
        self.place = {node.name: place for place, node in enumerate(self.nodes)}

    @cached_property
    def telling(self) -> list[str]:
        """The values that can be recognized, in order of computation."""
        return [node.name for node in self.nodes if node.name in self.values and tells(self.values[node.name])]

    @cached_property
    def prints(self) -> dict[str, Print]:
        """Of the telling values."""
        return {name: print_of(self.values[name]) for name in self.telling}

    @cached_property
    def by_size(self) -> dict[int, list[str]]:
        """The telling values by how many numbers they have, in order of computation."""
        names_by_size: dict[int, list[str]] = {}
        for name in self.telling:
            names_by_size.setdefault(self.values[name].size, []).append(name)
        return names_by_size

    @cached_property
    def rests_on(self) -> dict[str, int]:
        """For each value the set of those that it rests on, itself among them, as bits by `place`."""
        ancestors: dict[str, int] = {}
        for node in self.nodes:
            bits = 1 << self.place[node.name]
            for name in node.reads:
                bits |= ancestors.get(name, 0)
            ancestors[node.name] = bits
        return ancestors

    def follows(self, name: str, earlier: Iterable[str]) -> bool:
        """Whether a value rests on one of the earlier ones, or is one of them."""
        return any(self.rests_on[name] >> self.place[one] & 1 for one in earlier if one in self.place)

    def follows_all(self, name: str, rests: Iterable[Iterable[str]]) -> bool:
        """Whether a value rests on one of each of several groups of equal values."""
        return all(self.follows(name, names) for names in rests)

    def node(self, name: str) -> Node:
        """By its name."""
        return self.nodes[self.place[name]]

    def shape(self, name: str) -> Shape:
        """Of one row's value."""
        return self.values[name].shape[1:]

    def opened(self, names: Iterable[str]) -> "Reference":
        """With the values inside of these nodes, where they can be told: a layer's own steps, finest first."""
        nodes, values = list(self.nodes), dict(self.values)
        for name in names:
            inner, inner_values = self._inside(self.node(name))
            if not inner:
                continue
            at = next(i for i, node in enumerate(nodes) if node.name == name)
            # The layer's result comes behind its steps and rests on them.
            last = Node(name, nodes[at].layer, nodes[at].kind, (*nodes[at].reads, *(n.name for n in inner)))
            nodes[at : at + 1] = [*inner, last]
            values |= inner_values
        return Reference(nodes, values, self.outputs, self._inside)

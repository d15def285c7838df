"""Loading a ``.skops`` file whose names are allowed, its boosters looked at before their libraries read them.

skops makes a tree of nodes of its file, and then objects of those. An object is made of a state that is an object too,
so the states of boosters are made first, looked at, and then handed on as they are.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgewright.errors import UntrustedModelError
from edgewright.intake.booster_guard import inspect_booster, is_booster

__all__ = ["load_inspected"]


def load_inspected(path: Path, trusted: list[str]) -> Any:
    """What the file holds; ``trusted`` are the names that it may use beyond skops' own.

    Raises:
        UntrustedModelError: a booster that is not made of its state.
        InputError: a damaged booster.
    """
    # As skops.io.load does it, which gives away no nodes.
    from skops.io._audit import audit_tree, get_tree
    from skops.io._utils import read_schema

    with zipfile.ZipFile(path) as archive:
        schema, context = read_schema(archive)
        tree = get_tree(schema, context, trusted=trusted)
        audit_tree(tree, trusted=trusted)
        for node in _inner_first(tree):
            if is_booster(node.module_name, node.class_name):
                _inspect_node(node, path)
        return tree.construct()


def _inner_first(tree: Any) -> Iterator[Any]:
    """Every node after those that it is made of, whose boosters are thus looked at before it is."""
    seen: dict[int, Any] = {}
    waiting = [(tree, False)]
    while waiting:
        part, is_done = waiting.pop()
        if is_done:
            yield part
        elif isinstance(part, dict):
            waiting += [(value, False) for value in part.values()]
        elif isinstance(part, (list, tuple)):
            waiting += [(value, False) for value in part]
        elif hasattr(part, "children") and id(part) not in seen:
            seen[id(part)] = part
            waiting += [(part, True), (part.children, False)]


def _inspect_node(node: Any, path: Path) -> None:
    from skops.io._general import ObjectNode
    from skops.io._utils import gettype

    if type(node) is not ObjectNode:
        raise UntrustedModelError(
            f"{path}: makes a booster by {type(node).__name__} of skops, not from its state; save the model anew"
        )
    # A node makes its object once: this is the one that the booster gets.
    state = node.attrs.construct() if node.attrs is not None else {}
    inspect_booster(gettype(node.module_name, node.class_name), state, path)

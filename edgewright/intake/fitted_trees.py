"""Trees of scikit-learn as files give them: compiled code walks them without looking, so they are looked at here.

A child or a row that lies elsewhere crashes it, keeps it walking for ever, or lets it read memory that is not its own.
"""

from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import InputError

__all__ = ["inspect_if_tree"]

_CLASSES = {"Tree", "TreePredictor", "KDTree", "KDTree32", "KDTree64", "BallTree", "BallTree32", "BallTree64"}
_SIDES_OF_BOUNDS = {"KDTree": 2, "BallTree": 1}


def inspect_if_tree(thing: Any, path: Path) -> None:
    """Look at a decision tree, a histogram booster's tree, or the tree of a neighbours' estimator; pass on others.

    Raises:
        InputError: a node, a row or a feature that is not there.
    """
    kind = type(thing).__name__
    if kind not in _CLASSES:
        return
    if kind == "Tree":
        _inspect_decisions(thing, path)
    elif kind == "TreePredictor":
        nodes = thing.nodes
        _refuse_empty(len(nodes), path)
        own, inner = np.arange(len(nodes)), nodes["is_leaf"] == 0
        for side in ("left", "right"):
            _inspect_children(nodes[side].astype(np.int64)[inner], own[inner], len(nodes), path)
    else:
        _inspect_neighbours(thing, _SIDES_OF_BOUNDS[kind.rstrip("3264")], path)


def _refuse_empty(nodes: int, path: Path) -> None:
    """Compiled code reads the root before anything else."""
    if nodes == 0:
        raise InputError(f"{path}: damaged: a tree without a node")


def _inspect_decisions(tree: Any, path: Path) -> None:
    # All arrays of a tree end at `node_count`, which the file gives beside the nodes; those behind it are walked, too.
    if tree.node_count != tree.capacity:
        raise InputError(f"{path}: damaged: a tree of {tree.node_count} nodes that holds {tree.capacity}")
    _refuse_empty(tree.node_count, path)
    left, right = tree.children_left, tree.children_right
    inner = left != -1
    own = np.arange(tree.node_count)[inner]
    for children in (left, right):
        if ((children != -1) != inner).any():
            raise InputError(f"{path}: damaged: a tree with a branch on one side only")
        _inspect_children(children[inner], own, tree.node_count, path)
    features = tree.feature[inner]
    if (features < 0).any() or (features >= tree.n_features).any():
        raise InputError(f"{path}: damaged: a tree that decides by a feature which the model does not have")


def _inspect_children(children: Any, parents: Any, count: int, path: Path) -> None:
    if (children <= parents).any() or (children >= count).any():
        raise InputError(f"{path}: damaged: a tree whose branches lead nowhere")


def _inspect_neighbours(tree: Any, sides: int, path: Path) -> None:
    """Node n has the children 2n + 1 and 2n + 2; a node's rows stand in the order of the second array."""
    rows, order, nodes, bounds, *_, metric, weights = tree.__getstate__()
    count, features = rows.shape
    first, last, parents = nodes["idx_start"], nodes["idx_end"], np.flatnonzero(nodes["is_leaf"] == 0)
    factors = metric.__getstate__()[1].size  # of the features, where a metric has them
    sound = (
        count > 0
        and len(nodes) > 0
        and order.shape == (count,)
        and bool(((order >= 0) & (order < count)).all())
        and bool(((first >= 0) & (first <= last) & (last <= count)).all())
        and bool((2 * parents + 2 < len(nodes)).all())
        and bounds.shape == (sides, len(nodes), features)
        and factors in ({0, features} if type(metric).__name__.startswith("Minkowski") else {0, 1})
        and (weights is None or np.shape(weights) == (count,))
    )
    if not sound:
        raise InputError(f"{path}: damaged: a tree of neighbours whose nodes lead to rows that are not there")

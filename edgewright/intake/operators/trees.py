"""Decision trees as tensor operations that every target converts: no float64, no shape that depends on the data.

Shallow trees by the GEMM strategy, deep ones by traversal, after Nakandala et al., "A Tensor Compiler for Unified
Machine Learning Prediction Serving", OSDI 2020 (Hummingbird). Features are picked, never multiplied, so a comparison
sees exactly the number that came in. Operators: TreeEnsembleClassifier and TreeEnsembleRegressor of ai.onnx.ml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgewright.intake.builder import Builder, Op, Operand, Result, operand, refuse

__all__ = ["HANDLERS", "post_transformed"]

_GEMM_LEAVES = 64  # path matrices grow with the square of the leaves; beyond this, walking is cheaper
_COMPARISONS: dict[str, Callable[..., Any]] = {
    "BRANCH_LEQ": torch.le,
    "BRANCH_LT": torch.lt,
    "BRANCH_GTE": torch.ge,
    "BRANCH_GT": torch.gt,
    "BRANCH_EQ": torch.eq,
    "BRANCH_NEQ": torch.ne,
}


@dataclass(frozen=True)
class Trees:
    """T trees padded to M nodes each; children are positions within the tree, a leaf is its own child.

    ``feature``, ``true``, ``false`` (T, M) int64, ``threshold`` (T, M) float32, ``missing_true`` (T, M) bool,
    ``is_leaf`` (T, M) bool, ``values`` (T, M, outputs) float32, ``depth`` the longest path.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    missing_true: NDArray[np.bool_]
    is_leaf: NDArray[np.bool_]
    values: NDArray[np.float32]
    depth: int
    compare: Callable[..., Any]


def tree_ensemble_classifier(b: Builder, op: Op) -> Result:
    """Labels (N,) and scores (N, classes)."""
    labels = op.get("classlabels_int64s") or op.get("classlabels_strings")
    classes = len(labels)
    ids = sorted(set(op.get("class_ids")))
    # One column of weights serves two classes.
    single = classes == 2 and len(ids) == 1
    trees = _trees(op, "class", {i: 0 if single else i for i in ids}, 1 if single else classes)
    scores = _summed(b, op, trees)
    base = op.get("base_values")
    if base:
        scores = b.call(torch.add, scores, torch.tensor(base, dtype=torch.float32))
    if single:
        # ONNX Runtime takes weights that are all positive for probabilities: the other class has 1 - p, else -x.
        positive = all(w >= 0 for w in op.get("class_weights")) and op.get("post_transform", "NONE") != "LOGISTIC"
        other = b.call(torch.sub, 1.0, scores) if positive else b.call(torch.neg, scores)
        scores = b.call(torch.cat, [other, scores], 1)
    scores = post_transformed(b, op, scores)
    return label_of(b, op, scores), scores


def tree_ensemble_regressor(b: Builder, op: Op) -> Result:
    """Predictions (N, targets)."""
    outputs = op.get("n_targets", 1)
    trees = _trees(op, "target", {i: i for i in range(outputs)}, outputs)
    if op.get("aggregate_function", "SUM") not in {"SUM", "AVERAGE"}:
        raise refuse(op, f"aggregate_function {op.get('aggregate_function')}")
    total = _summed(b, op, trees)
    if op.get("aggregate_function", "SUM") == "AVERAGE":
        total = b.call(torch.div, total, float(len(trees.feature)))
    base = op.get("base_values")
    if base:
        total = b.call(torch.add, total, torch.tensor(base, dtype=torch.float32))
    return post_transformed(b, op, total)


def label_of(b: Builder, op: Op, scores: Operand) -> Operand:
    """The class of the largest score, as its integer label or, for string labels, its position."""
    position = b.call(torch.argmax, scores, 1)
    labels = op.get("classlabels_int64s") or op.get("classlabels_ints")
    if not labels or list(labels) == list(range(len(labels))):
        return position
    return b.call(torch.index_select, torch.tensor(labels, dtype=torch.int64), 0, position)


def post_transformed(b: Builder, op: Op, scores: Operand) -> Operand:
    """``post_transform`` of the ai.onnx.ml operators."""
    match op.get("post_transform", "NONE"):
        case "NONE":
            return scores
        case "LOGISTIC":
            return b.call(torch.sigmoid, scores)
        case "SOFTMAX":
            return b.call(torch.softmax, scores, 1)
        case other:
            raise refuse(op, f"post_transform {other}")


def _trees(op: Op, kind: str, column_of: dict[int, int], outputs: int) -> Trees:
    """Read the flat attribute lists into one padded row for each tree."""
    ids = np.asarray(op.get("nodes_treeids"))
    # Ids may be any numbers, in any order: counted anew from 0.
    names, index_in = np.unique(ids, return_inverse=True)
    position: dict[tuple[int, int], int] = {}
    counts = np.zeros(len(names), dtype=np.int64)
    for tree, node in zip(index_in, op.get("nodes_nodeids"), strict=True):
        position[int(tree), node] = int(counts[tree])
        counts[tree] += 1
    size = (len(names), int(counts.max()))
    here = np.array([position[int(t), n] for t, n in zip(index_in, op.get("nodes_nodeids"), strict=True)])
    modes = np.asarray(op.get("nodes_modes"))
    # Padding counts as leaves, which no path reaches.
    leaf = np.ones(size, dtype=bool)
    leaf[index_in, here] = modes == "LEAF"
    # One comparison serves all nodes, since the decision is one operator for all trees.
    branches = sorted(set(modes) - {"LEAF"}) or ["BRANCH_LEQ"]
    if len(branches) > 1 or branches[0] not in _COMPARISONS:
        raise refuse(op, f"comparisons {', '.join(branches)} in one ensemble")
    true, false = (_children(op, key, index_in, here, position, leaf) for key in ("true", "false"))
    values = np.zeros((*size, outputs), dtype=np.float32)
    tree_number = {int(name): i for i, name in enumerate(names)}
    leaves = (op.get(f"{kind}_{part}") for part in ("treeids", "nodeids", "ids", "weights"))
    for tree, node, column, weight in zip(*leaves, strict=True):
        # Added up: a leaf may name a class twice.
        values[tree_number[tree], position[tree_number[tree], node], column_of[column]] += weight
    tracks = op.get("nodes_missing_value_tracks_true") or [0] * len(ids)
    return Trees(
        feature=_placed(size, index_in, here, op.get("nodes_featureids"), np.int64),
        threshold=_placed(size, index_in, here, op.get("nodes_values"), np.float32),
        true=true,
        false=false,
        missing_true=_placed(size, index_in, here, tracks, np.bool_),
        is_leaf=leaf,
        values=values,
        depth=_depth(true, false, leaf),
        compare=_COMPARISONS[branches[0]],
    )


def _placed(size: tuple[int, int], tree: Any, node: Any, numbers: Any, dtype: Any) -> Any:
    array = np.zeros(size, dtype=dtype)
    array[tree, node] = np.asarray(numbers).astype(dtype)
    return array


def _children(op: Op, key: str, tree: Any, node: Any, position: dict[tuple[int, int], int], leaf: Any) -> Any:
    array = np.tile(np.arange(leaf.shape[1]), (leaf.shape[0], 1))
    for t, n, child in zip(tree, node, op.get(f"nodes_{key}nodeids"), strict=True):
        if not leaf[t, n]:
            array[t, n] = position[int(t), child]
    return array


def _depth(true: NDArray[np.int64], false: NDArray[np.int64], leaf: NDArray[np.bool_]) -> int:
    """Steps until every path of every tree stands on a leaf."""
    reached = np.zeros(leaf.shape, dtype=bool)
    reached[:, 0] = True
    # No path is longer than there are nodes.
    for depth in range(leaf.shape[1] + 1):
        if not (reached & ~leaf).any():
            return depth
        following = reached & leaf
        for children in (true, false):
            rows, columns = np.nonzero(reached & ~leaf)
            following[rows, children[rows, columns]] = True
        reached = following
    raise ValueError("a tree whose nodes form a circle")


def _summed(b: Builder, op: Op, trees: Trees) -> Operand:
    """The sum of the reached leaves' values over all trees, (N, outputs)."""
    x = operand(op, 0)
    if b.dtype(x) != torch.float32:
        x = b.call(torch.Tensor.to, x, torch.float32)
    # By the largest tree, since all are padded to it. Where branches meet, each path would have a leaf of its own.
    if trees.is_leaf.sum(axis=1).max() <= _GEMM_LEAVES and not _branches_meet(trees):
        return _by_matrices(b, x, trees)
    return _by_walking(b, x, trees)


def _branches_meet(trees: Trees) -> bool:
    """Whether a node is the child of two others, or twice of one: ONNX Runtime takes such trees."""
    tree, node = np.nonzero(~trees.is_leaf)
    children = np.concatenate([trees.true[tree, node], trees.false[tree, node]])
    places = np.concatenate([tree, tree]) * trees.is_leaf.shape[1] + children
    return len(np.unique(places)) < len(places)


def _decided(b: Builder, trees: Trees, x: Operand, threshold: Operand, missing_true: Any) -> Operand:
    decision = b.call(trees.compare, x, threshold)
    if not trees.missing_true.any():
        return decision
    return b.call(torch.logical_or, decision, b.call(torch.logical_and, b.call(torch.isnan, x), missing_true))


def _by_matrices(b: Builder, x: Operand, trees: Trees) -> Operand:
    """All decisions at once; the leaf whose path agrees with every one of them has the greatest count.

    (N, F) -> decisions (T, N, I) -> matches (T, N, L) -> (N, T L) @ (T L, outputs).
    """
    count, inner = len(trees.feature), max(int((~trees.is_leaf).sum(axis=1).max()), 1)
    leaves = int(trees.is_leaf.sum(axis=1).max())
    feature, threshold = np.zeros((count, inner), np.int64), np.zeros((count, inner), np.float32)
    missing = np.zeros((count, inner), bool)
    # -1 is a count that no path reaches: padding leaves never match.
    paths, wanted = np.zeros((count, inner, leaves), np.float32), np.full((count, leaves), -1, np.float32)
    values = np.zeros((count, leaves, trees.values.shape[2]), np.float32)
    for tree in range(count):
        branch_at: dict[int, int] = {}
        leaf = 0
        for node, path in _walk(trees, tree):
            if not trees.is_leaf[tree, node]:
                at = branch_at[node] = len(branch_at)
                feature[tree, at], threshold[tree, at] = trees.feature[tree, node], trees.threshold[tree, node]
                missing[tree, at] = trees.missing_true[tree, node]
                continue
            for ancestor, taken in path:
                # +1 for a decision that must hold, -1 for one that must not: agreement is the number of the former.
                paths[tree, branch_at[ancestor], leaf] = 1 if taken else -1
            wanted[tree, leaf] = sum(taken for _, taken in path)
            values[tree, leaf] = trees.values[tree, node]
            leaf += 1
    picked = b.call(torch.index_select, x, 1, torch.from_numpy(feature.reshape(-1)))
    decided = _decided(b, trees, picked, torch.from_numpy(threshold.reshape(-1)), torch.from_numpy(missing.reshape(-1)))
    decisions = b.call(torch.reshape, b.call(torch.Tensor.to, decided, torch.float32), [-1, count, inner])
    per_tree = b.call(torch.permute, decisions, [1, 0, 2])
    agreeing = b.call(torch.bmm, per_tree, torch.from_numpy(paths))
    reached = b.call(torch.eq, agreeing, torch.from_numpy(wanted[:, None, :]))
    flat = b.call(torch.permute, b.call(torch.Tensor.to, reached, torch.float32), [1, 0, 2])
    flat = b.call(torch.reshape, flat, [-1, count * leaves])
    return b.call(torch.matmul, flat, torch.from_numpy(values.reshape(count * leaves, -1)))


def _walk(trees: Trees, tree: int) -> list[tuple[int, list[tuple[int, bool]]]]:
    """Every reachable node with the decisions that lead to it, parents first."""
    nodes, open_ = [], [(0, list[tuple[int, bool]]())]
    while open_:
        node, path = open_.pop()
        nodes.append((node, path))
        if not trees.is_leaf[tree, node]:
            open_.append((int(trees.false[tree, node]), [*path, (node, False)]))
            open_.append((int(trees.true[tree, node]), [*path, (node, True)]))
    return nodes


def _by_walking(b: Builder, x: Operand, trees: Trees) -> Operand:
    """Every tree's current node, moved to a child ``depth`` times; a leaf stays where it is."""
    count, nodes, outputs = trees.values.shape
    # Places in one table of all trees: tree * nodes + node.
    offset = np.arange(count)[:, None] * nodes
    feature, threshold, missing, true, false = (
        torch.from_numpy(np.ascontiguousarray(a).reshape(-1))
        for a in (trees.feature, trees.threshold, trees.missing_true, trees.true + offset, trees.false + offset)
    )
    # (N, T) of zeros plus each tree's root: the batch size comes from the input itself.
    first = b.call(
        torch.Tensor.to,
        b.call(torch.isnan, b.call(torch.index_select, x, 1, torch.zeros(1, dtype=torch.int64))),
        torch.int64,
    )
    at = b.call(torch.add, b.call(torch.mul, first, 0), torch.from_numpy(offset.reshape(1, -1)))
    at = b.call(torch.reshape, at, [-1])

    def looked_up(table: torch.Tensor) -> Operand:
        return b.call(torch.index_select, table, 0, at)

    for _ in range(trees.depth):
        columns = b.call(torch.reshape, looked_up(feature), [-1, count])
        value = b.call(torch.reshape, b.call(torch.gather, x, 1, columns), [-1])
        mask = looked_up(missing) if trees.missing_true.any() else None
        decided = _decided(b, trees, value, looked_up(threshold), mask)
        at = b.call(torch.where, decided, looked_up(true), looked_up(false))
    reached = b.call(torch.index_select, torch.from_numpy(trees.values.reshape(-1, outputs)), 0, at)
    return b.call(torch.sum, b.call(torch.reshape, reached, [-1, count, outputs]), [1])


HANDLERS: dict[str, Callable[[Builder, Op], Result]] = {
    "TreeEnsembleClassifier": tree_ensemble_classifier,
    "TreeEnsembleRegressor": tree_ensemble_regressor,
}

"""The trees of an XGBoost model, looked at before the library walks them: it trusts every child, feature and category.

All trees are looked at as one forest, end to end: models have thousands of small ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.intake.xgboost_fields import DamagedModelError, count, field, integers, length

__all__ = ["inspect_forest"]

_NONE = -1
_ROOT_PARENTS = (_NONE, 2**31 - 1)  # the second: -1 without its highest bit, which says whether a node is a left child
_DELETED = 2**31 - 1  # as the feature of a node, with default_left
_MAX_NODES = 2**31 - 1
_DEPTH_DOUBLINGS = 9  # 512 deep; the library writes trees by recursion
_MAX_CATEGORY = 1 << 24  # XGBoost's own: beyond it float32 has gaps
_MAX_CATEGORY_WORDS = 1 << 28  # of 32 bits; the library keeps a bit for every number below a split's highest category
_OF_NODES = ("left_children", "right_children", "parents", "split_indices", "default_left")
_STATISTICS = ("loss_changes", "sum_hessian", "split_conditions")
_OF_CATEGORIES = ("categories_nodes", "categories_segments", "categories_sizes", "categories")


def inspect_forest(trees: Sequence[Any], features: int, groups: int) -> None:
    """Look at all trees of a model of that many features and outputs.

    Raises:
        DamagedModelError: counts that do not fit, or nodes, features or categories that are not there.
    """
    if not all(isinstance(tree, dict) for tree in trees):
        raise DamagedModelError("a tree that is not an object")
    if not trees:
        return
    params = [field(tree, "tree_param", dict) for tree in trees]
    sizes = [count(param, "num_nodes", 1, _MAX_NODES) for param in params]
    for param in params:
        count(param, "num_feature", 0, features)
    vector = max(count(param, "size_leaf_vector", 0, groups, default=0) for param in params)
    if vector > 1 and (vector != groups or any(count(p, "size_leaf_vector", groups, groups) != vector for p in params)):
        raise DamagedModelError(f"leaves of {vector} values in a model of {groups} outputs")
    forest = _Forest(trees, np.array(sizes, np.int64), [count(param, "num_deleted", 0, _MAX_NODES) for param in params])
    forest.inspect_sizes(vector if vector > 1 else 1)
    forest.inspect_branches(vector if vector > 1 else 0)
    forest.inspect_features(features)
    forest.inspect_categories()


class _Forest:
    """Nodes of all trees end to end; children and parents are counted within their tree."""

    def __init__(self, trees: Sequence[Mapping[str, Any]], sizes: NDArray[np.int64], deleted: list[int]) -> None:
        self.trees, self.sizes = trees, sizes
        self.roots = np.cumsum(sizes) - sizes
        columns = [integers(trees, name) for name in _OF_NODES]
        for name, (_, lengths) in zip(_OF_NODES, columns, strict=True):
            self._refuse(lengths != sizes, f"'{name}' is not as long as num_nodes", np.arange(len(trees)))
        self.tree_of = np.repeat(np.arange(len(trees)), sizes)
        self.root_of, self.size_of = self.roots[self.tree_of], sizes[self.tree_of]
        self.own = np.arange(len(self.tree_of)) - self.root_of
        self.left, self.right, self.parents, self.features, default_left = (values for values, _ in columns)
        self._refuse((default_left < 0) | (default_left > 1), "a default_left that is neither 0 nor 1")
        self.deleted = (self.features == _DELETED) & (default_left == 1)
        self._refuse(self.deleted & (self.own == 0), "a root that is deleted")
        named = np.add.reduceat(self.deleted, self.roots, dtype=np.int64)
        self._refuse(named != deleted, "a num_deleted that is not the number of deleted nodes", np.arange(len(trees)))

    def _refuse(self, wrong: NDArray[np.bool_], fault: str, tree_of: NDArray[np.int64] | None = None) -> None:
        if wrong.any():
            tree = (self.tree_of if tree_of is None else tree_of)[int(np.argmax(wrong))]
            raise DamagedModelError(f"tree {tree}: {fault}")

    def inspect_sizes(self, width: int) -> None:
        """Statistics have one value a node, weights one vector."""
        for place, (tree, size) in enumerate(zip(self.trees, self.sizes.tolist(), strict=True)):
            for name in _STATISTICS:
                if length(tree, name) != size:
                    raise DamagedModelError(f"tree {place}: '{name}' is not as long as num_nodes")
            if length(tree, "base_weights") != size * width:
                raise DamagedModelError(f"tree {place}: 'base_weights' is not as long as its nodes have values")

    def inspect_branches(self, vector: int) -> None:
        """Every node but the root is the child of one node, and reached from the root; deleted ones are of none.

        Ids are used again after pruning: a child's may be lower than its parent's.
        """
        inner = self.left != _NONE
        self._inspect_leaves(~inner, vector)
        children = np.concatenate([self.left[inner], self.right[inner]])
        of = np.concatenate([np.flatnonzero(inner)] * 2)
        self._refuse((children < 1) | (children >= self.size_of[of]), "a child that is not a node", self.tree_of[of])
        places = children + self.root_of[of]
        named = np.bincount(places, minlength=len(self.own))
        self._refuse(named > 1, "a node that is a child twice")
        self._refuse((named == 0) & ~self.deleted & (self.own > 0), "a node that is the child of none")
        self._refuse(self.deleted & ((named > 0) | inner), "a deleted node with a parent or children")
        is_root = self.own == 0
        self._refuse(is_root & ~np.isin(self.parents, _ROOT_PARENTS), "a root with a parent")
        # Those of deleted nodes are old, and read all the same.
        self._refuse(~is_root & ((self.parents < 0) | (self.parents >= self.size_of)), "a parent that is not a node")
        self._refuse(self.parents[places] != self.own[of], "a child that names another parent", self.tree_of[places])
        # One parent each, so what does not end at the root goes in a circle: climb 1, 2, 4, ... steps at once.
        above = np.where(is_root | self.deleted, self.root_of, self.parents + self.root_of)
        for _ in range(_DEPTH_DOUBLINGS):
            above = above[above]
        self._refuse(above != self.root_of, f"nodes in a circle, or more than {1 << _DEPTH_DOUBLINGS} deep")

    def _inspect_leaves(self, leaf: NDArray[np.bool_], vector: int) -> None:
        if not vector:
            self._refuse(leaf & (self.right != _NONE), "a node with a right child alone")
            return
        # Their right child is their place among the vectors of the leaves.
        leaves = np.add.reduceat(leaf, self.roots, dtype=np.int64)
        wrong = (self.right < 0) | (self.right >= leaves[self.tree_of])
        self._refuse(leaf & wrong, "a leaf whose values are not there")
        lengths = np.array([length(tree, "leaf_weights") for tree in self.trees])
        self._refuse(lengths != leaves * vector, "'leaf_weights' does not fit its leaves", np.arange(len(self.trees)))

    def inspect_features(self, features: int) -> None:
        """Every split is by a feature that the model has."""
        beyond = (self.features < 0) | (self.features >= features)
        self._refuse(beyond & ~self.deleted, f"a split by a feature beyond the {features} that the model has")

    def inspect_categories(self) -> None:
        """Splits by category: ``categories_segments`` says where the set of each begins, in their order."""
        if not any(name in tree for tree in self.trees for name in ("split_type", *_OF_CATEGORIES)):
            return  # before XGBoost 1.3
        kinds, lengths = integers(self.trees, "split_type")
        (nodes, counts), (begins, n_begins), (sizes, n_sizes), (values, n_values) = (
            integers(self.trees, name) for name in _OF_CATEGORIES
        )
        each = np.arange(len(self.trees))
        self._refuse(lengths != self.sizes, "'split_type' is not as long as num_nodes", each)
        self._refuse((kinds < 0) | (kinds > 1), "a split_type that is neither 0 nor 1")
        self._refuse((counts != n_begins) | (counts != n_sizes), "lists of categories that do not fit", each)
        tree_of = np.repeat(each, counts)
        self._refuse((nodes < 0) | (nodes >= self.sizes[tree_of]), "categories of a node that is not there", tree_of)
        if not np.array_equal(nodes + self.roots[tree_of], np.flatnonzero(kinds)):
            raise DamagedModelError("categories of other nodes than those that split by category")
        if not len(nodes):
            self._refuse(n_values > 0, "categories of no node", each)
            return
        self._refuse((sizes < 1) | (sizes > n_values[tree_of]), "a set of categories beyond its list", tree_of)
        starts, bases = np.cumsum(sizes) - sizes, np.cumsum(n_values) - n_values
        if sizes.sum() != len(values) or not np.array_equal(begins + bases[tree_of], starts):
            raise DamagedModelError("sets of categories that do not lie end to end")
        if ((values < 0) | (values >= _MAX_CATEGORY)).any():
            raise DamagedModelError(f"a category that is not a number from 0 to {_MAX_CATEGORY - 1}")
        if (np.maximum.reduceat(values, starts) // 32 + 1).sum() > _MAX_CATEGORY_WORDS:
            raise DamagedModelError(f"sets of categories that take more than {_MAX_CATEGORY_WORDS} words of memory")

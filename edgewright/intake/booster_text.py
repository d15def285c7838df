"""LightGBM's text of a model, looked at before the library reads it: its parser trusts every count and every child."""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["inspect_lightgbm"]

_OF_NODES = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_BY_CATEGORY = 1  # of decision_type, a bit


def inspect_lightgbm(text: str) -> None:
    """Look at LightGBM's text of a model.

    Raises:
        ValueError: a count that does not fit, or a node, feature or category that is not there.
    """
    if "\0" in text:  # where the library takes it to end
        raise ValueError("a zero byte in its text")
    try:
        sound = _is_sound(text.encode())
    except (KeyError, IndexError, OverflowError) as e:
        raise ValueError(f"its text cannot be read: {e}") from e
    if not sound:
        raise ValueError("a tree of LightGBM whose counts or branches lead nowhere")


def _is_sound(text: bytes) -> bool:
    start = text.find(b"\nTree=") + 1
    # All before the first tree.
    head = _fields(text[: start or len(text)])
    features, each = int(head["max_feature_idx"]) + 1, int(head["num_tree_per_iteration"])
    trees = list(_trees(text[start:], head)) if start else []
    return (
        features > 0
        and each > 0
        and each == int(head["num_class"])
        and len(trees) % each == 0
        and all(_is_tree(tree, features) for tree in trees)
    )


def _trees(body: bytes, head: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """The fields of each tree; LightGBM finds them by their sizes, where the head names those."""
    sizes = [int(size) for size in head.get("tree_sizes", "").split()]
    at = [0, *(int(end) for end in np.cumsum(sizes))] if sizes else _starts(body)
    for place, (start, end) in enumerate(pairwise(at)):
        # A size below 1 would not go forward in the text.
        if not body[start:end].startswith(b"Tree=%d\n" % place) or min(sizes, default=1) < 1 or end > len(body):
            raise ValueError(f"no tree {place} where its size puts it")
        yield _fields(body[start:end])


def _starts(body: bytes) -> list[int]:
    places = [0]
    while (start := body.find(b"\nTree=", places[-1])) >= 0:
        places.append(start + 1)
    end = body.find(b"\nend of trees")
    return [*places, end if end >= 0 else len(body)]


def _fields(block: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in re.split(r"[\r\n]", block.decode()):
        name, sign, value = line.partition("=")
        # Of two lines the library might read the other one.
        if sign and name in fields:
            raise ValueError(f"two lines '{name[:40]}'")
        if sign:
            fields[name] = value.strip()
    return fields


def _is_tree(tree: Mapping[str, str], features: int) -> bool:
    leaves, categories = int(tree["num_leaves"]), int(tree["num_cat"])
    if leaves < 1 or _numbers(tree["leaf_value"]).shape != (leaves,):
        return False
    # A single leaf has no node to look at.
    if leaves == 1:
        return True
    nodes = {name: _numbers(tree[name]) for name in _OF_NODES}
    # A tree of n leaves has n - 1 nodes.
    own = np.arange(leaves - 1)
    return bool(
        all(values.shape == own.shape for values in nodes.values())
        and ((nodes["split_feature"] >= 0) & (nodes["split_feature"] < features)).all()
        and all(_lead_on(nodes[side], own, leaves) for side in ("left_child", "right_child"))
        # A node by category holds the number of its set in place of a threshold.
        and _are_sets(tree, categories, nodes["threshold"][nodes["decision_type"].astype(int) & _BY_CATEGORY != 0])
        and _is_linear(tree, leaves, features)
    )


def _lead_on(children: NDArray[np.float64], own: NDArray[Any], leaves: int) -> bool:
    """To a later node, or to a leaf, which counts from -1 downwards."""
    # Children come after their parent: no walk goes in a circle.
    return bool((((children > own) & (children < leaves - 1)) | ((children < 0) & (children >= -leaves))).all())


def _are_sets(tree: Mapping[str, str], count: int, asked: NDArray[np.float64]) -> bool:
    """Sets of categories: ``cat_boundaries`` says where each begins in ``cat_threshold``."""
    if not count:
        return not len(asked)
    bounds, words = _numbers(tree["cat_boundaries"]), tree["cat_threshold"].split()
    return bool(
        bounds.shape == (count + 1,)
        and bounds[0] == 0
        and (np.diff(bounds) >= 0).all()
        and bounds[-1] == len(words)
        and ((asked >= 0) & (asked < count)).all()
    )


def _is_linear(tree: Mapping[str, str], leaves: int, features: int) -> bool:
    if tree.get("is_linear", "0") == "0":
        return True
    counts, asked = _numbers(tree["num_features"]), _numbers(tree["leaf_features"])
    return bool(
        counts.shape == (leaves,) == _numbers(tree["leaf_const"]).shape
        and (counts >= 0).all()
        and counts.sum() == len(asked) == len(_numbers(tree["leaf_coeff"]))
        and ((asked >= 0) & (asked < features)).all()
    )


def _numbers(text: str) -> NDArray[np.float64]:
    return np.array([float(word) for word in text.split()])

"""Sums into places that a tensor names, for LiteRT: its converter writes them with a body that its runtime refuses.

The runtime takes a scatter that overwrites, and adds, but not with the body that torch's ``scatter_add`` becomes. Each
number is compared with all places instead, and what falls on a place is summed. Imports torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from edgewright.export.static_graph import NodeValues

__all__ = ["SCATTER_FORMS", "is_summing_scatter"]

Tensor = torch.Tensor

_MAX_COMPARISONS = 1 << 22  # each is a number in memory
_SUMS = {"add", "sum"}


def is_summing_scatter(node: fx.Node, values: NodeValues) -> bool:
    """Whether it has a form here: it sums, in numbers that fit into memory."""
    if str(node.target) not in SCATTER_FORMS:
        return False
    names = ("self", "dim", "index", "src", "reduce")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if given.get("reduce", "sum") not in _SUMS or not given.get("include_self", True):
        return False
    x, index = values.env[given["self"]], values.env[given["index"]]
    return bool(x.dim()) and int(index.numel()) * int(x.shape[int(given["dim"])]) <= _MAX_COMPARISONS


def _scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``src`` has at least the sizes of ``index``, which has at most those of ``x`` beside ``dim``."""
    own = src
    for axis, size in enumerate(index.shape):
        own = own.narrow(axis, 0, size)
    places = torch.arange(x.shape[dim], device=x.device)
    # (..., numbers, places): whether a number falls on a place.
    falls = index.movedim(dim, -1).unsqueeze(-1) == places
    moved = own.movedim(dim, -1).unsqueeze(-1)
    # Chosen, not multiplied by the comparison: infinity times zero is NaN. A sum of narrow integers is int64.
    added = torch.where(falls, moved, torch.zeros_like(moved)).sum(-2).to(x.dtype).movedim(-1, dim)
    missing = [(0, whole - size) for whole, size in zip(x.shape, added.shape, strict=True)]
    # Beside `dim`, the index may be shorter than `x`: what it does not reach gets zeros.
    if any(after for _, after in missing):
        added = functional.pad(added, [side for pair in reversed(missing) for side in pair])
    return x + added


def _reduced(x: Tensor, dim: int, index: Tensor, src: Any, reduce: str = "sum", **_: Any) -> Tensor:
    own = src if isinstance(src, Tensor) else torch.full(index.shape, src, dtype=x.dtype, device=x.device)
    return _scatter_add(x, dim, index, own)


SCATTER_FORMS: Mapping[str, Callable[..., Any]] = {
    "aten.scatter_add.default": _scatter_add,
    "aten.scatter.reduce": _reduced,
    "aten.scatter.value_reduce": _reduced,
    "aten.scatter_reduce.two": _reduced,
}
"""By the operation's name: functions of its own arguments; of those that multiply, no form is here."""

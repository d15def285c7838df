"""What a layer computes on the way to its result, by torch's own decompositions. Runs in a child process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch._decomp import get_decompositions
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from edgewright.export.diagnosis.reference import Node

__all__ = ["array_of", "inside_of", "stacked"]

_aten = torch.ops.aten
# Kernels that are one to torch, and several operators to converters.
_DECOMPOSED = get_decompositions([
    _aten.addmm, _aten.baddbmm, _aten.gelu, _aten.silu, _aten.mish, _aten.elu, _aten.hardswish, _aten.hardsigmoid,
    _aten.hardtanh, _aten.leaky_relu, _aten.softplus, _aten.log_sigmoid_forward, _aten._softmax, _aten._log_softmax,
    _aten.native_layer_norm, _aten.native_group_norm, _aten.native_batch_norm, _aten._native_batch_norm_legit,
    _aten._native_batch_norm_legit_no_training, _aten.var_mean, _aten.std, _aten.logsumexp, _aten.rsub, _aten.glu,
    _aten._scaled_dot_product_flash_attention_for_cpu, _aten.upsample_bilinear2d, _aten.linalg_vector_norm,
    _aten._fused_rms_norm, _aten.softshrink,
])  # fmt: skip
# What padding must be so that it changes no result: the least for a maximum.
_PADDED_WITH = {
    _aten.max_pool2d_with_indices.default: -torch.inf,
    _aten.avg_pool1d.default: 0.0,
    _aten.avg_pool2d.default: 0.0,
    _aten.avg_pool3d.default: 0.0,
}


def inside_of(
    node: Node, function: Callable[..., Any], rows: Sequence[tuple[torch.Tensor, ...]]
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """The values inside of a node, for each row's inputs of it (as many as the node reads)."""
    runs = []
    for row in rows:
        noting = _Noting(node, row)
        with torch.no_grad(), noting:
            function(*row)
        runs.append(noting)
    values = stacked([run.values for run in runs])
    return [inner for inner in runs[0].nodes if inner.name in values], values


def stacked(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{name: (rows, ...)} of the values that have one shape in all rows."""
    names = [n for n in rows[0] if all(n in row and row[n].shape == rows[0][n].shape for row in rows)]
    return {name: np.stack([row[name] for row in rows]) for name in names}


def array_of(value: torch.Tensor) -> np.ndarray:
    """A copy of its own: an operation in place would change the numbers afterwards."""
    plain = value.detach().float() if value.dtype is torch.bfloat16 else value.detach()
    array: np.ndarray = plain.numpy().copy()
    return array


class _Noting(TorchDispatchMode):
    """Notes every operation that runs, layers taken apart, padding as a step of its own."""

    def __init__(self, node: Node, row: tuple[torch.Tensor, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._node = node
        self.values: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        # By identity: the tensors are kept, so that none of them takes the place of another.
        self._named = {id(value): name for value, name in zip(row, node.reads, strict=True)}
        self._kept: list[torch.Tensor] = list(row)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DECOMPOSED:
            # A mode is off while it handles an operation; on again, it notes the steps of the decomposition.
            with self:
                return _DECOMPOSED[func](*args, **kwargs)
        kind = str(func._schema.name).rpartition("::")[2]
        reads = tuple(dict.fromkeys(n for t in _tensors((args, kwargs)) if (n := self._named.get(id(t)))))
        padded = _padded(func, args)
        if padded is not None:
            reads = (self._note("pad", reads, padded),)
        value = func(*args, **kwargs)
        for part in _tensors(value):
            self._note(kind, reads, part)
        return value

    def _note(self, kind: str, reads: tuple[str, ...], value: torch.Tensor) -> str:
        name = f"{self._node.name} > {kind} {len(self.nodes)}"
        self._named[id(value)] = name
        self._kept.append(value)
        self.values[name] = array_of(value)
        self.nodes.append(Node(name, self._node.layer, kind, reads, inner=True))
        return name


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _padded(func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The input of a convolution or pooling with its padding around it, as many runtimes compute it."""
    # args[6]: transposed, whose padding takes away instead.
    if func is _aten.convolution.default and not args[6]:
        x, padding, fill = args[0], list(args[4]), 0.0
    elif func in _PADDED_WITH and len(args) > 3:
        x, padding, fill = args[0], list(args[3]), _PADDED_WITH[func]
    else:
        return None
    padding = padding * (x.dim() - 2) if len(padding) == 1 else padding
    if not any(padding):
        return None
    # pad counts axes from the last one.
    return functional.pad(x, [n for size in reversed(padding) for n in (size, size)], value=fill)

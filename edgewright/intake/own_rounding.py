"""How far rounding alone carries a model's float32 answers: the same graph once in float32 and once in float64.

A deep network may amplify the rounding of its first layers beyond the limit that suits most: its float32 answers then
lie that far from the true ones on any kernel, and another sound kernel's lie as far off, elsewhere. Runs in a child
process: imports torch.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves, tree_map

from edgewright.intake.row_mixing import distances

__all__ = ["own_rounding"]

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def own_rounding(graph: fx.GraphModule, batches: Iterable[Sequence[torch.Tensor]]) -> list[float] | None:
    """Of each output, the largest difference of float32 from float64 over the largest magnitude.

    None where the graph does not run, as in float64 without a kernel for it, or gives numbers that are not finite.

    Args:
        graph: in evaluation mode.
        batches: the inputs (N, ...) of each run, in the model's order.
    """
    given = [list(batch) for batch in batches]
    before = torch.get_default_dtype()
    try:
        narrow = [_answers(graph, batch) for batch in given]
        torch.set_default_dtype(torch.float64)
        double = _Wide(graph)
        wide = [_answers(double.run, [_widened(tensor) for tensor in batch]) for batch in given]
    except Exception:  # an operation without a kernel for float64; torch's errors share no base
        return None
    finally:
        torch.set_default_dtype(before)
    roundings = []
    for part, exact in zip(zip(*narrow, strict=True), zip(*wide, strict=True), strict=True):
        a, b = (torch.cat([t.reshape(-1).double() for t in parts]).numpy() for parts in (part, exact))
        roundings.append(float(distances(a, b).max(initial=0.0)))
    return roundings


def _answers(call: Any, batch: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(tree_leaves(call(*(tensor.clone() for tensor in batch))))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _WIDER.get(value, value)
    return value.to(_WIDER[value.dtype]) if isinstance(value, torch.Tensor) and value.dtype in _WIDER else value


class _Wide(fx.Interpreter):
    """Run a graph in float64: its weights, its constants and the dtypes that its operations name."""

    def run_node(self, n: fx.Node) -> Any:
        """Whatever the operation gives, as wide."""
        return tree_map(_widened, super().run_node(n))

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Dtypes that stand among the arguments are widened."""
        return super().call_function(target, tree_map(_widened, args), tree_map(_widened, kwargs))

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer for this one call in float64; the graph's own stays as it is."""
        return copy.deepcopy(self.fetch_attr(target)).double()(*args, **kwargs)

"""Example inputs for the converters that trace a torch graph."""

from collections.abc import Sequence

import torch

from edgewright.errors import UnsupportedError
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["example_inputs"]


def example_inputs(inputs: Sequence[TensorSpec], batch: int = 1) -> tuple[torch.Tensor, ...]:
    """Zeros in the shape and dtype of each input, the free batch axis filled with `batch`.

    Raises:
        UnsupportedError: an axis other than the batch is free.
    """
    return tuple(_zeros(spec, batch) for spec in inputs)


def _zeros(spec: TensorSpec, batch: int) -> torch.Tensor:
    # An input of no axes is one number, whose shape is () below.
    first, *rest = spec.shape or (1,)
    if any(n < 1 for n in rest):
        raise UnsupportedError(
            f"input '{spec.name}' has the free axes {spec.shape}; only the batch may be free: fix the others"
            f" at import with --shape {spec.name}={','.join(str(max(n, 1)) for n in spec.shape)}"
        )
    shape = (batch if first == -1 else first, *rest) if spec.shape else ()
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype))

"""Rows that a module is exported with: their values count for nothing, their shape and dtype do. Imports torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["EXAMPLE_ROWS", "example", "example_dtype"]

EXAMPLE_ROWS = 2  # torch.export takes a batch of 1 for a constant


def example(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Zeros, which are an id of every table: (2, ...)."""
    return torch.zeros(EXAMPLE_ROWS, *shape, dtype=dtype)


def example_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """What rows of the data are to a network: signed whole numbers are ids, unsigned ones pixels, so real numbers."""
    return {"i": torch.int64, "b": torch.bool}.get(dtype.kind, torch.float32)

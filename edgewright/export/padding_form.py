"""Padding of any kind, negative and circular too, as converters take it. Imports torch."""

from collections.abc import Sequence

import torch

__all__ = ["padded"]

Tensor = torch.Tensor


def padded(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Negative padding takes rows away; circular padding is a piece of the other end."""
    for place_, count in enumerate(pad):
        # As torch counts: pairs from the last axis on, each before and behind.
        axis = x.dim() - 1 - place_ // 2
        if count < 0:
            x = x.narrow(axis, -count if place_ % 2 == 0 else 0, x.shape[axis] + count)
    # Taken away first: what mirrors or repeats does so with the rows that are left.
    positive_pads = [max(0, count) for count in pad]
    if mode == "circular":
        for place_ in range(0, len(positive_pads), 2):
            x = _around(x, x.dim() - 1 - place_ // 2, *positive_pads[place_ : place_ + 2])
        return x
    return torch.ops.aten.pad.default(x, positive_pads, mode, value) if any(positive_pads) else x


def _around(x: Tensor, axis: int, before: int, behind: int) -> Tensor:
    size = x.shape[axis]
    ends = (x.narrow(axis, size - before, before), x, x.narrow(axis, 0, behind))
    # Without the empty ends, of which a converter would make a tensor without elements.
    return torch.cat([part for part in ends if part.shape[axis]], axis)

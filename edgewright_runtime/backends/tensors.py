"""What both backends do with tensor descriptions: renaming, and refusing arrays that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgewright_runtime.errors import InputRejectedError, IntegrityError
from edgewright_runtime.manifest import TensorSpec

__all__ = ["check_feeds", "renamed"]


def renamed(specs: Sequence[TensorSpec], names: Sequence[str] | None, kind: str) -> tuple[TensorSpec, ...]:
    """The same tensors under other names, in order.

    Raises:
        IntegrityError: another number of names than of tensors.
    """
    if names is None:
        return tuple(specs)
    if len(names) != len(specs):
        found = [spec.name for spec in specs]
        raise IntegrityError(f"the model file has {len(specs)} {kind}s {found}, {len(names)} were named: {list(names)}")
    if set(names) == {spec.name for spec in specs}:
        return tuple(specs)
    return tuple(
        TensorSpec(name, spec.shape, spec.dtype, spec.scale, spec.zero_point) for name, spec in zip(names, specs)
    )


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays whose names, dtypes or shapes are not the model's.

    Raises:
        InputRejectedError: names what was found and what is allowed.
    """
    if len(feeds) != len(specs) or any(spec.name not in feeds for spec in specs):
        raise InputRejectedError(f"the model's inputs are {[s.name for s in specs]}, given were {list(feeds)}")
    for spec in specs:
        array = feeds[spec.name]
        if array.dtype.name != spec.dtype:
            raise InputRejectedError(f"input '{spec.name}' is {spec.dtype}, given was {array.dtype.name}")
        if array.ndim != len(spec.shape) or any(d not in (-1, n) for d, n in zip(spec.shape, array.shape)):
            raise InputRejectedError(f"input '{spec.name}' has shape {list(spec.shape)}, given was {list(array.shape)}")

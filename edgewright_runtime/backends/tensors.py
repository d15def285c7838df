"""What both backends do with tensor descriptions: renaming, and refusing arrays that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgewright_runtime.bundle.integer_range import first_outside
from edgewright_runtime.bundle.manifest import TensorSpec
from edgewright_runtime.errors import InputRejectedError, IntegrityError

__all__ = ["check_feeds", "narrowed", "renamed"]


def renamed(specs: Sequence[TensorSpec], names: Sequence[str] | None, kind: str) -> tuple[TensorSpec, ...]:
    """The same tensors under other names, in order.

    Raises:
        IntegrityError: another number of names than of tensors.
    """
    if names is None:
        return tuple(specs)
    if len(names) != len(specs):
        own_names = [spec.name for spec in specs]
        raise IntegrityError(
            f"the model file has {len(specs)} {kind}s {own_names}, {len(names)} were named: {list(names)}"
        )
    # The file's own names, perhaps in another order: they are what they say, whatever their place.
    if set(names) == {spec.name for spec in specs}:
        return tuple(specs)
    return tuple(
        TensorSpec(name, spec.shape, spec.dtype, spec.scale, spec.zero_point) for name, spec in zip(names, specs)
    )


def narrowed(specs: Sequence[TensorSpec], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whole numbers in the width that the model's file has for them: int64 rows for an int32 input, say.

    Raises:
        InputRejectedError: a number does not fit; other dtypes are left for `check_feeds`.
    """
    wanted = {spec.name: np.dtype(spec.dtype) for spec in specs if spec.scale is None and spec.dtype != "unknown"}
    return {name: _as_integer(name, array, wanted.get(name, array.dtype)) for name, array in feeds.items()}


def _as_integer(name: str, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    if array.dtype == wanted or array.dtype.kind not in "iu" or wanted.kind not in "iu":
        return array
    outside = first_outside(array, wanted)
    if outside:
        raise InputRejectedError(f"input '{name}': {outside}")
    return array.astype(wanted)


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
        # -1 is the file's free axis: any length will do.
        if array.ndim != len(spec.shape) or any(d not in (-1, n) for d, n in zip(spec.shape, array.shape)):
            raise InputRejectedError(f"input '{spec.name}' has shape {list(spec.shape)}, given was {list(array.shape)}")

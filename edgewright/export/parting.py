"""Where two computations of the same model part: their intermediate results compared, in order."""

from dataclasses import dataclass

import numpy as np

from edgewright.export.runs import Arrays

__all__ = ["Parting", "first_parting"]


@dataclass(frozen=True)
class Parting:
    """``agreed`` is the last value of the reference that the other has too, ``parted`` the first after it."""

    agreed: str | None
    parted: str

    def __str__(self) -> str:
        upto = f"they agree up to '{self.agreed}' and part" if self.agreed else "they part"
        return f"{upto} at layer '{self.parted}'"


def first_parting(reference: Arrays, found: Arrays, tolerance: float) -> Parting | None:
    """Follow the reference's values in order of computation; None where even its last one is found.

    Converters rename, transpose and fuse, so values are matched by their content: the same numbers in any order.
    A value that a fusion swallowed is missing on the other side, but what comes after it is there; so the place is
    after the last value that both have.
    """
    comparable = [(name, np.sort(a, axis=None)) for name, a in reference.items() if _is_telling(a)]
    candidates: dict[int, list[np.ndarray]] = {}
    for array in found.values():
        if _is_telling(array):
            candidates.setdefault(array.size, []).append(np.sort(array, axis=None).astype(np.float64))
    agreed = -1
    for i, (_, values) in enumerate(comparable):
        if any(_equal(values.astype(np.float64), other, tolerance) for other in candidates.get(values.size, ())):
            agreed = i
    if agreed == len(comparable) - 1:
        return None
    return Parting(comparable[agreed][0] if agreed >= 0 else None, comparable[agreed + 1][0])


def _is_telling(array: np.ndarray) -> bool:
    """Real numbers, more than one of them, and not all the same: others match by chance."""
    return array.dtype.kind == "f" and array.size > 1 and bool(np.ptp(np.nan_to_num(array)) > 0)


def _equal(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    scale = float(np.nanmax(np.abs(a)))
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True))

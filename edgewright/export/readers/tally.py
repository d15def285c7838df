"""Counting what tensors a file stores."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from edgewright.export.readers.contents import Contents, StoredWeights
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["Tally"]


@dataclass
class _Group:
    dtype: str
    tensors: int = 0
    elements: int = 0
    bytes: int = 0
    zeros: int = 0


@dataclass
class Tally:
    """Constant tensors by stored dtype, and what of them are parameters."""

    groups: dict[str, _Group] = field(default_factory=dict)
    parameters: int = 0
    parameter_zeros: int = 0

    def add(self, dtype: str, elements: int, zeros: int, stored_bytes: int, *, is_weight: bool) -> None:
        """Count one tensor."""
        group = self.groups.setdefault(dtype, _Group(dtype))
        group.tensors += 1
        group.elements += elements
        group.bytes += stored_bytes
        group.zeros += zeros
        if is_weight:
            self.parameters += elements
            self.parameter_zeros += zeros

    def add_array(self, array: np.ndarray, *, is_weight: bool) -> None:
        """Count one tensor that is stored as it stands."""
        zeros = int(array.size - np.count_nonzero(array))
        self.add(array.dtype.name, int(array.size), zeros, array.nbytes, is_weight=is_weight)

    def result(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        operators: dict[str, int],
        notes: Sequence[str] = (),
    ) -> Contents:
        """The reader's answer."""
        return Contents(
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            weights=tuple(StoredWeights(**asdict(g)) for g in sorted(self.groups.values(), key=lambda g: -g.bytes)),
            parameters=self.parameters,
            parameter_zeros=self.parameter_zeros,
            operators=operators,
            notes=tuple(notes),
        )

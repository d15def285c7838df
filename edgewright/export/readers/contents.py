"""What a reader finds in a model file."""

from edgewright.value import Value
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["Contents", "StoredWeights"]


class StoredWeights(Value):
    """All constant tensors of one stored dtype: ``bytes`` in the file, ``zeros`` elements that are zero."""

    dtype: str
    tensors: int
    elements: int
    bytes: int
    zeros: int


class Contents(Value):
    """Tensors and operators of a file; ``parameters`` leaves out integers that are not weights."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[StoredWeights, ...]
    parameters: int
    parameter_zeros: int
    operators: dict[str, int]
    notes: tuple[str, ...]

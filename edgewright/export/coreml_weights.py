"""The constants of a saved ML program, and what reads them. Runs in a child process: imports coremltools.

coremltools 9.0 has `get_weights_metadata` for this, which fails where a constant is one of several that an operator
joins (a class token before the patches of an image).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Weight", "weights_of_program"]


@dataclass(frozen=True)
class Weight:
    """A constant array, and the names of the operators that read it."""

    value: np.ndarray
    readers: tuple[str, ...]


def weights_of_program(model: Any, least: int = 0) -> dict[str, Weight]:
    """The constant arrays of at least so many elements, by name, those of inner blocks too."""
    from coremltools.converters.mil.frontend.milproto import load
    from coremltools.models import utils

    program = utils._convert_model_spec_to_pymil_prog(model, model.get_spec().specificationVersion, load.load)
    constants = (op for function in program.functions.values() for op in _constants(function))
    arrays = ((op, op.val.val) for op in constants)
    return {
        op.name: Weight(value, tuple(dict.fromkeys(reader.name for reader in op.outputs[0].child_ops)))
        for op, value in arrays
        if isinstance(value, np.ndarray) and value.size >= least
    }


def _constants(block: Any) -> Iterator[Any]:
    for op in block.operations:
        for inner in op.blocks:
            yield from _constants(inner)
        if op.op_type == "const":
            yield op

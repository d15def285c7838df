"""What a loaded Keras or TensorFlow model answers: its outputs by name, and their values for rows.

Imports no TensorFlow of its own; runs in the child process that loaded the model.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.tensor_names import plain_name
from edgewright_runtime.bundle.manifest import TensorSpec

if TYPE_CHECKING:
    from edgewright.intake.keras_loaded import Loaded

__all__ = ["Outputs", "answers_of", "flat", "outputs_of"]

Outputs = Sequence[tuple[TensorSpec, int]]
"""The outputs that are kept, each with its place among all that the model returns."""

_ONLY = "output"
_ROWS = (3, 2)  # of zeros: an output of a fixed size, such as a mean of each of three channels, has as many only once
_ROWS_AT_ONCE = 256


def outputs_of(loaded: "Loaded") -> tuple[Outputs, tuple[str, ...]]:
    """The outputs with the rows on their first axis, and what is to be said of the others.

    Raises:
        UnsupportedError: there is none.
    """
    batch = loaded.inputs[0].shape[0]
    counts = (batch,) if batch > 0 else _ROWS
    asked = [_asked_of_zeros(loaded, rows) for rows in counts]
    outputs: list[tuple[TensorSpec, int]] = []
    left_out = []
    for place, ((name, array), *others) in enumerate(zip(*asked, strict=True)):
        of_rows = [(rows, *array.shape[1:]) for rows in counts]
        if array.dtype.kind in "fiub" and [array.shape, *(other.shape for _, other in others)] == of_rows:
            plain = _name(loaded, name, place, len(asked[0]), {t.name for t, _ in outputs})
            outputs.append((TensorSpec(plain, (batch, *array.shape[1:]), array.dtype.name), place))
        else:
            left_out.append(f"{name or place} {array.dtype.name}{array.shape}")
    if not outputs:
        raise UnsupportedError(f"no output has numbers with the rows on its first axis ({'; '.join(left_out)})")
    note = f"outputs without numbers whose first axis is the rows were left out: {'; '.join(left_out)}"
    return outputs, (note,) if left_out else ()


def _asked_of_zeros(loaded: "Loaded", rows: int) -> list[tuple[str, NDArray[Any]]]:
    zeros = [np.zeros((rows, *t.shape[1:]), t.dtype) for t in loaded.inputs]
    return [(name, np.asarray(value)) for name, value in flat(loaded.asked(*zeros))]


def flat(result: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor of a returned structure, with the keys that lead to it, in an order that depends on names alone."""
    if isinstance(result, dict):
        for key in sorted(result):
            yield from flat(result[key], f"{name}_{key}" if name else str(key))
    elif isinstance(result, (list, tuple)):
        for part in result:
            yield from flat(part, name)
    else:
        yield name, result.numpy() if hasattr(result, "numpy") else result


def answers_of(loaded: "Loaded", outputs: Outputs, inputs: Sequence[NDArray[Any]]) -> list[NDArray[np.float64]]:
    """(N, ...) of each kept output; a fixed batch is fed piece by piece.

    Raises:
        InputError: TensorFlow refuses the rows.
    """
    fixed = loaded.inputs[0].shape[0]
    step = fixed if fixed > 0 else _ROWS_AT_ONCE
    batch_answers: list[list[NDArray[np.float64]]] = []
    # One piece even of no rows, so that every output has its shape.
    for start in range(0, max(len(inputs[0]), 1), step):
        piece = [x[start : start + step] for x in inputs]
        row_count = len(piece[0])
        if fixed > 0 and row_count < fixed:
            # A fixed batch is filled up by its last row; the answers to that are cut off.
            piece = [np.concatenate([x, np.repeat(x[-1:], fixed - row_count, axis=0)]) for x in piece]
        try:
            results = [value for _, value in flat(loaded.asked(*piece))]
        except Exception as e:  # TensorFlow's kernels have errors of their own, for an id that no table holds
            raise InputError(f"the model refuses its own data: TensorFlow: {one_line(e)}") from e
        batch_answers.append([np.asarray(results[place])[:row_count].astype(np.float64) for _, place in outputs])
    return [np.concatenate(column) for column in zip(*batch_answers, strict=True)]


def _name(loaded: "Loaded", key: str, place: int, count: int, taken: set[str]) -> str:
    if count == 1:
        return _ONLY
    given = key or (loaded.output_names[place] if len(loaded.output_names) == count else f"{_ONLY}_{place}")
    plain = plain_name(given)
    return plain if plain not in taken else f"{plain}_{place}"

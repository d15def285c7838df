"""From the cells of raw table rows to numbers: what each means as the source model's own table reader took it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgewright_runtime.bundle.number_text import number_in
from edgewright_runtime.bundle.preprocessing import Column, Preprocessing
from edgewright_runtime.errors import InputRejectedError
from edgewright_runtime.predict.terms import counted

__all__ = ["ColumnReader", "table_features"]

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def table_features(rows: Sequence[Mapping[str, Any]], preprocessing: Preprocessing) -> np.ndarray:
    """(N, features) float32. A missing value is null, NaN, a text that stands for it, or a column left out.

    Raises:
        InputRejectedError: no row, or a cell that the model does not take: names the row and the column.
    """
    if not rows:
        raise InputRejectedError("no rows were given")
    encoded = np.empty((len(rows), preprocessing.width), np.float32)
    start = 0
    for column in preprocessing.columns:
        # By column: its vocabulary and its missing texts are prepared once for all rows.
        reader, stop = ColumnReader(column, preprocessing.missing), start + column.width
        for i, row in enumerate(rows):
            # Left out means missing, which only an optional column may be.
            if not isinstance(row, Mapping) or (column.name not in row and not column.optional):
                raise InputRejectedError(
                    f"row {i}: column '{column.name}' is missing; needed: {_names(preprocessing.columns)}"
                )
            encoded[i, start:stop] = reader.features(row.get(column.name), i)
        start = stop
    return encoded


class ColumnReader:
    """Read the cells of one column."""

    def __init__(self, column: Column, missing: Sequence[str]) -> None:
        self._column = column
        self._codes = column.codes
        # A text that the model knows is itself, whatever it means elsewhere.
        self._missing = frozenset(t for t in (*missing, *column.missing_texts) if t not in self._codes)

    def features(self, value: Any, row: int = 0) -> float | np.ndarray:
        """The cell's number, code or counts; ``row`` is for messages.

        Raises:
            InputRejectedError: nothing that the model takes in this column.
        """
        if self._is_missing(value):
            return self._of_missing(row)
        if self._column.kind == "number":
            return self._number(value, row)
        return self._code(value, row) if self._column.kind == "category" else self._counts(value, row)

    def knows(self, value: Any) -> bool:
        """Whether the vocabulary holds a value that is not missing."""
        return any(spelling in self._codes for spelling in _spellings(value))

    def _is_missing(self, value: Any) -> bool:
        if isinstance(value, str):
            return value in self._missing or (self._column.kind == "number" and not value.strip())
        return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))

    def _of_missing(self, row: int) -> float | np.ndarray:
        name = self._column.name
        if not self._column.optional:
            needed = "; a number is needed" if self._column.kind == "number" else ""
            raise InputRejectedError(f"row {row}: column '{name}' is empty{needed}")
        return math.nan if self._column.kind == "number" else self._column.missing

    def _number(self, value: Any, row: int) -> float:
        if isinstance(value, str) and value in self._codes:
            return self._codes[value]
        try:
            number = number_in(value) if isinstance(value, str) else float(value)
        except (TypeError, ValueError, OverflowError) as e:
            raise InputRejectedError(
                f"row {row}: column '{self._column.name}' needs a number, found {value!r:.40}"
            ) from e
        if not abs(number) <= _FLOAT32_MAX:  # NaN compares false
            raise InputRejectedError(
                f"row {row}: column '{self._column.name}' must be finite in float32, found {value!r:.40}"
            )
        return number

    def _code(self, value: Any, row: int) -> float:
        for spelling in _spellings(value):
            if spelling in self._codes:
                return self._codes[spelling]
        if self._column.known_only:
            raise InputRejectedError(
                f"row {row}: column '{self._column.name}' holds {value!r:.40}, which the model was not trained on"
            )
        return self._column.unknown

    def _counts(self, value: Any, row: int) -> np.ndarray:
        if not isinstance(value, str) or self._column.words is None:
            raise InputRejectedError(f"row {row}: column '{self._column.name}' needs a text, found {value!r:.40}")
        return counted(value, self._column.words, self._codes)


def _spellings(value: Any) -> Iterator[str]:
    """How the vocabulary may write a value: a text as it is, a whole number without a fraction."""
    plain = value.item() if isinstance(value, np.generic) else value
    yield str(plain)
    # A column of integers with a gap becomes one of floats in pandas: 3 comes as 3.0.
    if isinstance(plain, float) and plain.is_integer():
        yield str(int(plain))


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(dict.fromkeys(c.name for c in columns))

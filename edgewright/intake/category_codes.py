"""From what the tables of a column's encoders say to the codes that a device writes for its cells."""

import math
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np

from edgewright.intake.tabulated import ColumnTable, SparseRow
from edgewright_runtime.bundle.manifest import Column

__all__ = ["category_column", "spellings"]

_BOOLEANS = {True: ("True", "true", "TRUE"), False: ("False", "false", "FALSE")}  # what pandas reads as such
_Key = tuple[tuple[tuple[int, float | str], ...], ...]


def category_column(name: str, tables: Sequence[ColumnTable], *, optional: bool) -> Column:
    """The column as a device reads it; what every encoder treats alike has one code. The tables learn their keys.

    ``optional``: the model takes a missing value there.
    """
    codes: dict[_Key, int] = {}
    answers: list[Sequence[SparseRow]] = []

    def code(rows: Sequence[SparseRow | None]) -> int | None:
        """The code of what the tables answer; None where one of them refuses the value."""
        accepted_rows = [row for row in rows if row is not None]
        if len(accepted_rows) < len(rows):
            return None
        key = tuple(_key(row) for row in accepted_rows)
        if key not in codes:
            codes[key] = len(codes)
            answers.append(accepted_rows)
        return codes[key]

    known = {value: code([table.row(value) for table in tables]) for value in _known(tables)}
    vocabulary = {text: place for value, place in known.items() if place is not None for text in spellings(value)}
    unknown = code([table.unknown for table in tables])
    missing = code([table.missing for table in tables])
    for i, table in enumerate(tables):
        table.answer([float(c) for c in range(len(answers))], [rows[i] for rows in answers], table.unknown)
    return Column(
        name=name,
        kind="category",
        vocabulary=tuple(vocabulary.items()),
        optional=optional and missing is not None,
        known_only=unknown is None,
        unknown=-1 if unknown is None else unknown,
        missing=-1 if missing is None else missing,
    )


def spellings(value: Any) -> tuple[str, ...]:
    """How a value may stand in a raw row: 3 also as 3.0, 1 as true, a point in time with and without its hours."""
    # Before numbers: in Python a truth value is an int.
    if isinstance(value, bool):
        return _BOOLEANS[value]
    if isinstance(value, (int, float)) and float(value).is_integer():
        as_truth = _BOOLEANS[bool(value)] if value in {0, 1} else ()
        return (str(int(value)), f"{int(value)}.0", *as_truth)
    if isinstance(value, (datetime, date)):
        hours = value.isoformat()
        return tuple(dict.fromkeys((str(value), hours, hours.removesuffix("T00:00:00"))))
    return (str(value),)


def _known(tables: Sequence[ColumnTable]) -> Iterator[Any]:
    """Every value that some table knows, in the order of their texts."""
    values = dict.fromkeys(value for table in tables for value in table.rows)
    yield from sorted(values, key=lambda v: (not isinstance(v, (int, float)), v) if _is_number(v) else (True, str(v)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _key(row: SparseRow) -> tuple[tuple[int, float | str], ...]:
    """A row that can be looked up; NaN equals no number, not even itself."""
    return tuple((feature, "nan" if math.isnan(v) else v) for feature, v in sorted(row.items()))

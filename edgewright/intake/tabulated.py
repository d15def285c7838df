"""Encoders of categories as tables: what the fitted transformers themselves answer to every value that they know.

Imputers and encoders work column by column, and look at nothing but which of finitely many values a cell holds. So all
that they do is told by their answers to each known value, to a missing one and to an unknown one. The table is asked
of them once, here; no option of theirs (rare categories, dropped ones, what stands for unknown) needs a converter.
Runs in a child process: imports scikit-learn.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from edgewright.errors import UnsupportedError
from edgewright.intake.tables import is_blank, plain

__all__ = ["ColumnTable", "SparseRow", "Tabulated", "leading_encoders", "tabulate", "tabulate_numbers"]

_ENCODERS = {"OneHotEncoder", "OrdinalEncoder", "TargetEncoder"}
_COLUMN_WISE = {*_ENCODERS, "SimpleImputer"}
_UNKNOWN_TEXT = "\u2400 no category"
_ASKED_AT_ONCE = 512  # rows: dense ones of thousands of features must fit into memory

SparseRow = dict[int, float]
"""Features that are not zero, by their number: a row of thousands of one-hot features holds one."""
Given = Callable[[Sequence[Sequence[Any]]], Any]


@dataclass
class ColumnTable:
    """What becomes of one column: a row of ``width`` features for each known value; None where the value is refused.

    ``keys`` and ``results`` are what the graph compares a cell with and answers, ``otherwise`` what it answers to
    anything else. They are set where it is decided what a value is to the graph: its own number, or a code.
    """

    width: int
    rows: dict[Any, SparseRow | None]
    unknown: SparseRow | None
    missing: SparseRow | None
    keys: tuple[float, ...] = ()
    results: tuple[SparseRow, ...] = ()
    otherwise: SparseRow | None = None

    def row(self, value: Any) -> SparseRow | None:
        """The answer to a value, known or not."""
        return self.rows.get(value, self.unknown)

    def answer(self, keys: Sequence[float], rows: Sequence[SparseRow], otherwise: SparseRow | None) -> None:
        """Settle what the graph compares a cell with; what is refused, and comes all the same, is of no category."""
        self.keys, self.results = tuple(keys), tuple(rows)
        # Where nothing is hit: zeros for one-hot features, a missing value for others.
        none = {} if self.is_one_hot else dict.fromkeys(range(self.width), math.nan)
        self.otherwise = none if otherwise is None else otherwise

    @property
    def is_one_hot(self) -> bool:
        """Whether at most one feature of each row is 1, and every other one is 0."""
        rows = (*self.results, *([self.otherwise] if self.otherwise is not None else []))
        return all(len(row) <= 1 and set(row.values()) <= {1.0} for row in rows)


class Tabulated(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted transformer in place of those that were asked: a table for each input column.

    ``order``: for each table the numbers of the output's features that are its own.
    """

    def __init__(
        self,
        tables: Sequence[ColumnTable] = (),
        order: Sequence[Sequence[int]] = (),
        sparse_output: bool = False,
    ) -> None:
        self.tables, self.order, self.sparse_output = tables, order, sparse_output


def leading_encoders(steps: Sequence[Any]) -> int:
    """How many first steps of a chain can be tabulated: up to the last encoder that only such steps precede."""
    length = 0
    for place, step in enumerate(steps):
        # A step that mixes columns, such as PCA, ends what a table can say.
        if type(step).__name__ not in _COLUMN_WISE:
            break
        # Up to here: an imputer with no encoder behind it is scikit-learn's own converter's.
        if type(step).__name__ in _ENCODERS:
            length = place + 1
    return length


def tabulate(steps: Sequence[Any], given: Given, columns: Sequence[str]) -> Tabulated:
    """The steps' own answers. ``given`` makes of columns of cells what the steps were fitted on.

    Raises:
        UnsupportedError: a feature of theirs depends on several columns.
    """
    known = [_known_values(steps, place, len(columns)) for place in range(len(columns))]
    base = [values[0] if values else math.nan for values in known]
    unknown = [_unknown_of(values) for values in known]
    (ordinary,), width = _transformed(steps, given, [base])
    answers = [
        # What is missing by itself: beside it, true and false are objects, and whole numbers fractions.
        [*_answered(steps, given, base, place, [*values, *other]), *_answered(steps, given, base, place, [math.nan])]
        for place, (values, other) in enumerate(zip(known, unknown, strict=True))
    ]
    owned = _owned(answers, ordinary, width, columns)
    tables = [
        _table(features, values, bool(other), column_rows)
        for features, values, other, column_rows in zip(owned, known, unknown, answers, strict=True)
    ]
    return Tabulated(tables, owned, bool(getattr(steps[-1], "sparse_output", False)))


def tabulate_numbers(step: Any) -> Tabulated:
    """An encoder of numbers, whose cells the graph compares as they are.

    Raises:
        UnsupportedError: categories that are equal in float32.
    """
    names = [str(i) for i in range(step.n_features_in_)]
    # Beside a column of booleans an encoder was fitted on objects, and compares with nothing else.
    kind = object if any(np.asarray(known).dtype == object for known in step.categories_) else np.float64
    encoder = tabulate([step], lambda cells: np.array(cells, dtype=kind).T, names)
    for column, table in enumerate(encoder.tables):
        values = [v for v, row in table.rows.items() if row is not None]
        keys = np.array(values, dtype=np.float32).tolist()
        if len(set(keys)) != len(keys):
            raise UnsupportedError(
                f"{type(step).__name__}: categories of column {column} that float32 cannot tell apart; give a table, "
                "or smaller numbers"
            )
        rows = [table.rows[v] or {} for v in values]
        if table.missing is not None and repr(table.missing) != repr(table.unknown):  # NaN equals not even itself
            keys, rows = [*keys, math.nan], [*rows, table.missing]
        table.answer(keys, rows, table.unknown)
    return encoder


def _known_values(steps: Sequence[Any], place: int, columns: int) -> list[Any]:
    """The values that some step compares cells of the column with, the first encoder's first."""
    known_values: dict[Any, None] = {}
    # The encoder's first, so that the base row consists of values that it knows.
    for step in sorted(steps, key=lambda s: type(s).__name__ not in _ENCODERS):
        for values in _compared(step, place, columns):
            known_values.update((plain(v), None) for v in values if not is_blank(v))
    return list(known_values)


def _compared(step: Any, place: int, columns: int) -> Iterator[Any]:
    if type(step).__name__ == "SimpleImputer":
        yield [step.missing_values]
        yield np.asarray(step.statistics_, dtype=object)[[place]] if len(step.statistics_) == columns else ()
    elif len(step.categories_) == columns:
        yield step.categories_[place]
    else:  # an imputer before it has left columns out: a value that is not the column's own counts as unknown there
        yield from step.categories_


def _unknown_of(values: Sequence[Any]) -> list[Any]:
    """A value of the column's kind that is none of those known; none where there can be no other."""
    if any(isinstance(v, str) for v in values) or not values:
        return [_UNKNOWN_TEXT]
    # Beside true there is false; where both are known nothing is left to ask.
    if all(isinstance(v, bool) for v in values):
        return [v for v in (False, True) if v not in values]
    if all(isinstance(v, date) for v in values):  # points in time are dates, too
        return [max(values) + timedelta(days=1)]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        numbers = {float(v) for v in values}
        beside = max(numbers) + 1.5  # the same number where that is beyond 2^53
        return [beside if beside not in numbers else next(n + 0.5 for n in count() if n + 0.5 not in numbers)]
    return []


def _answered(
    steps: Sequence[Any], given: Given, base: list[Any], column: int, values: list[Any]
) -> list[SparseRow | None]:
    """What each value of a column leads to, all others at their base."""
    rows = [[*base[:column], value, *base[column + 1 :]] for value in values]
    answers: list[SparseRow | None] = []
    for start in range(0, len(rows), _ASKED_AT_ONCE):
        piece = rows[start : start + _ASKED_AT_ONCE]
        try:
            answers += _transformed(steps, given, piece)[0]
        except (ValueError, TypeError):  # some value is refused: each by itself tells which
            answers += [_alone(steps, given, row) for row in piece]
    return answers


def _alone(steps: Sequence[Any], given: Given, row: list[Any]) -> SparseRow | None:
    try:
        return _transformed(steps, given, [row])[0][0]
    except (ValueError, TypeError):
        return None


def _transformed(steps: Sequence[Any], given: Given, rows: list[list[Any]]) -> tuple[list[SparseRow], int]:
    """The features of each row, and how many there are."""
    cells = given([list(column) for column in zip(*rows, strict=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown categories are asked for on purpose
        for step in steps:
            cells = step.transform(cells)
    dense: NDArray[np.float64] = np.asarray(cells.toarray() if hasattr(cells, "toarray") else cells, dtype=np.float64)
    sparse_rows = [{int(j): float(row[j]) for j in np.flatnonzero(row)} for row in dense]  # NaN is not zero
    return sparse_rows, dense.shape[1]


def _owned(
    answers: Sequence[Sequence[SparseRow | None]], base: SparseRow, width: int, columns: Sequence[str]
) -> list[list[int]]:
    """For each column the features that depend on it; those that never change go with the first."""
    owner: dict[int, int] = {}
    for column, rows in enumerate(answers):
        for row in (r for r in rows if r is not None):
            # Features that are zero in both rows are in neither.
            for feature in row.keys() | base.keys():
                if _same(row.get(feature, 0.0), base.get(feature, 0.0)):
                    continue
                if owner.setdefault(feature, column) != column:
                    raise UnsupportedError(
                        f"an encoder mixes the columns '{columns[owner[feature]]}' and '{columns[column]}'; only "
                        "encoders of single columns can be used on text"
                    )
    # Features that no column changes must still be written by one of the tables.
    return [[f for f in range(width) if owner.get(f, 0) == column] for column in range(len(answers))]


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


def _table(
    features: list[int], values: list[Any], asked_unknown: bool, rows: Sequence[SparseRow | None]
) -> ColumnTable:
    place = {feature: i for i, feature in enumerate(features)}
    own = [None if row is None else {place[f]: v for f, v in row.items() if f in place} for row in rows]
    return ColumnTable(
        width=len(features),
        rows=dict(zip(values, own, strict=False)),
        unknown=own[len(values)] if asked_unknown else None,
        missing=own[-1],
    )

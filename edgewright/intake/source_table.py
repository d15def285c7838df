"""The table as the model's own code had it: the columns it was fitted on, of the kinds it was fitted on.

pandas' own reading stands, with two exceptions that are said in a note: a column of text where the model takes numbers
is read as numbers, and a column that the model knows as categorical becomes such a column again; a file keeps neither.
Runs in a child process: imports pandas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake.raw_columns import UsedColumns, columns_used, takes_texts
from edgewright.intake.sklearn_source import answers, fitted_names
from edgewright.intake.tables import Table, is_blank, plain
from edgewright_runtime.bundle.number_text import number_in

__all__ = ["SourceTable", "source_table"]

_SHOWN = 3


@dataclass(frozen=True)
class SourceTable:
    """``frame`` holds the columns that the model was fitted on; ``used`` is the model over numbers, and its columns.

    ``form``: what the model takes: a ``frame``, an ``array``, or the ``texts`` of the one column.
    """

    table: Table
    frame: Any
    form: str
    used: UsedColumns
    notes: tuple[str, ...]

    def given(self, frame: Any) -> Any:
        """Rows as the model's own `predict` takes them."""
        if self.form == "texts":
            return frame.iloc[:, 0]
        return frame if self.form == "frame" else frame.to_numpy()

    def optional_columns(self, estimator: Any) -> set[str]:
        """The used columns in which the model itself takes a missing value, by asking it.

        Raises:
            InputError: it refuses a row without any.
        """
        import pandas as pd

        typical = {name: next((v for v in self.frame[name] if not is_blank(v)), None) for name in self.frame}
        probe = pd.DataFrame({name: _cell(value, self.frame[name].dtype) for name, value in typical.items()})
        if None not in typical.values():
            # A column that is blank throughout has no value to ask with.
            answers(estimator, self.given(probe))  # refused whole, a row tells nothing of blanks
        names = list(dict.fromkeys(use.column for use in self.used.uses))
        blanks = {name: _cell(None, self.frame[name].dtype) for name in names}

        def takes(missing: Sequence[str]) -> bool:
            try:
                answers(estimator, self.given(probe.assign(**{name: blanks[name] for name in missing})))
            except InputError:
                return False
            return True

        # A model that takes a row of nothing is not asked a hundred times.
        return set(names) if takes(names) else {name for name in names if takes([name])}

    def refuse_blanks(self, optional: set[str]) -> None:
        """A missing value is an error unless the model itself takes it in that column.

        Raises:
            InputError: names the column and the first row.
        """
        for name in dict.fromkeys(use.column for use in self.used.uses):
            blank = np.flatnonzero(self.frame[name].isna().to_numpy())
            if name not in optional and len(blank):
                path, row = self.table.place(int(blank[0]))
                raise InputError(
                    f"{path}: column '{name}' is blank in row {row}, and the model takes no missing value there"
                )


def source_table(estimator: Any, table: Table, spec: DataSpec) -> SourceTable:
    """What of the table the model takes, and how.

    Raises:
        InputError: a column is missing, of another kind than the model was fitted on, or of cells that are not numbers.
        UnsupportedError: as `columns_used`.
    """
    names, form = _names(estimator, table, spec)
    frame = table.frame[names].copy()
    used = columns_used(estimator, names, frame, named=form == "frame")
    notes = [*_made_categorical(frame, used), *_made_numbers(frame, used, table)]
    _refuse_other_kinds(frame, used, table)
    ignored = [c for c in table.frame.columns if c not in {use.column for use in used.uses}]
    if ignored:
        notes.append(f"columns that the model does not use were left out: {', '.join(ignored)}")
    return SourceTable(table, frame, form, used, tuple(notes))


def _names(estimator: Any, table: Table, spec: DataSpec) -> tuple[list[str], str]:
    held = [str(c) for c in table.frame.columns]
    names = fitted_names(estimator)
    if names is not None:
        absent = next((n for n in names if n not in held), None)
        if absent is not None:
            raise InputError(
                f"{table.path}: no column '{absent}', which the model was fitted on; it holds {_some(held)}"
            )
        return names, "frame"
    if takes_texts(estimator):
        return [_text_column(held, table, spec)], "texts"
    if len(held) != estimator.n_features_in_:
        raise InputError(
            f"{table.path}: {len(held)} columns besides the target, but the model takes {estimator.n_features_in_} "
            "and does not name them"
        )
    return held, "array"


def _text_column(held: Sequence[str], table: Table, spec: DataSpec) -> str:
    if spec.text_column is None and len(held) == 1:
        return held[0]
    if spec.text_column is None or spec.text_column not in held:
        question = "which column holds the text" if spec.text_column is None else f"no column '{spec.text_column}'"
        raise InputError(f"{table.path}: {question}? It holds {_some(held)}; write text_column: NAME in the data file")
    return spec.text_column


def _made_categorical(frame: Any, used: UsedColumns) -> Iterator[str]:
    import pandas as pd

    changed = [n for n in used.categorical if not isinstance(frame[n].dtype, pd.CategoricalDtype)]
    for name in changed:
        frame[name] = frame[name].astype("category")
    if changed:
        yield f"columns that the model knows as categorical were made so: {', '.join(changed)}"


def _made_numbers(frame: Any, used: UsedColumns, table: Table) -> Iterator[str]:
    """Text becomes numbers where the model takes numbers, as the code that trained it must have done."""
    import pandas as pd

    for name in dict.fromkeys(use.column for use in used.uses if use.kind == "number"):
        kind = frame[name].dtype
        # Categories and numbers stay what they are, complex ones included.
        if isinstance(kind, pd.CategoricalDtype) or kind.kind in "iufbc":
            continue
        cells = [plain(v) for v in frame[name]]
        numbers = [_number(cell, name, used, table, row) for row, cell in enumerate(cells)]
        # All cells are looked at first: an error names its row, and a column of blanks alone stays.
        if any(isinstance(cell, str) for cell in cells):
            blank = sum(isinstance(cell, str) and not cell.strip() for cell in cells)
            frame[name] = pd.Series(numbers, dtype="float64", index=frame.index)
            yield f"column '{name}' holds text and was read as numbers" + (
                f", {blank} blank cells as missing" * bool(blank)
            )


def _number(cell: Any, name: str, used: UsedColumns, table: Table, row: int) -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return float("nan")
    try:
        return number_in(cell) if isinstance(cell, str) else float(cell)
    except (TypeError, ValueError) as e:
        path, at = table.place(row)
        raise InputError(
            f"{path}: column '{name}', row {at}: {cell!r} is not a number, and the model takes one there "
            f"({used.first_step.get(name, 'its first step')}); a text that means a missing value goes into na_values "
            "of the data file"
        ) from e


def _refuse_other_kinds(frame: Any, used: UsedColumns, table: Table) -> None:
    """A column that the encoder knows as text and pandas reads as numbers, or the other way round, matches nothing."""
    for use in used.uses:
        known = [value for known in used.tables.get(use.column, ()) for value in known.rows]
        if use.kind != "category" or not known:
            continue
        texts = any(isinstance(value, str) for value in known)
        cells = [(row, cell) for row, cell in enumerate(map(plain, frame[use.column])) if cell is not None]
        strange = [(row, cell) for row, cell in cells if isinstance(cell, str) != texts]
        if not strange:
            continue
        # One word in a column makes text of all its numbers: that word is what to name.
        row, cell = next((pair for pair in strange if not _is_number(pair[1])), strange[0])
        path, at = table.place(row)
        shown = ", ".join(repr(value) for value in known[:_SHOWN])
        raise InputError(
            f"{path}: column '{use.column}', row {at}: {cell!r} is of another kind than what the model knows there "
            f"({shown}); write {_cure(use.column, cell, texts=texts)} in the data file"
        )


def _cure(column: str, cell: Any, *, texts: bool) -> str:
    if texts:
        return f"dtypes: {{{column}: str}}"
    if isinstance(cell, str) and not _is_number(cell):
        return f"na_values: [{cell!r}], where that means a missing value,"
    return f"dtypes: {{{column}: float64}}"


def _is_number(cell: Any) -> bool:
    try:
        _ = number_in(cell) if isinstance(cell, str) else float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _cell(value: Any, kind: Any) -> Any:
    """A column of one cell as pandas reads it: with a blank whole numbers are fractions, and booleans objects."""
    import pandas as pd

    # Extension types (Int64, boolean) hold a blank as they are.
    if value is None and not pd.api.types.is_extension_array_dtype(kind):
        kind = {"i": "float64", "u": "float64", "b": "object"}.get(kind.kind, kind)
    return pd.Series([value], dtype=kind)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

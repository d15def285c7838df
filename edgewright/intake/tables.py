"""Tables in ``.csv`` or ``.parquet`` files, encoded as a model's ``features`` input. Imports pandas when it runs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright_runtime.manifest import Column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["encode", "is_table", "raw_rows", "read_table", "target_of", "typed"]

_SUFFIXES = {".csv", ".tsv", ".parquet"}
RAW_ROWS = 32
"""Raw rows kept as examples: golden inputs of the device and of the integration snippet."""


def is_table(path: Path) -> bool:
    """Whether the name promises a table."""
    return path.suffix.lower() in _SUFFIXES


def read_table(path: Path) -> "pd.DataFrame":
    """A table as it stands in the file: text stays text, so that nothing is guessed.

    Raises:
        InputError: missing, unreadable, or without a row.
    """
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except FileNotFoundError as e:
        raise InputError(f"{path}: no such file") from e
    except (OSError, ValueError, ImportError) as e:  # pandas' own parser errors are ValueErrors
        raise InputError(f"{path}: cannot be read as a table: {(str(e) or type(e).__name__).splitlines()[0]}") from e
    if len(table) == 0:
        raise InputError(f"{path}: no rows")
    return table.astype(object)


def target_of(table: "pd.DataFrame", spec: DataSpec, path: Path) -> NDArray[Any]:
    """The target column.

    Raises:
        InputError: not named, not there, or blank in some row.
    """
    if spec.target is None:
        raise InputError(f"{path}: which column is the target? Name it: --target COLUMN ({_some(table)})")
    if spec.target not in table.columns:
        raise InputError(f"{path}: no column '{spec.target}' to be the target; it holds {_some(table)}")
    column = table[spec.target]
    blank = [_is_blank(v) for v in column]
    if any(blank):
        raise InputError(f"{path}: the target '{spec.target}' is blank in row {blank.index(True)}")
    return np.array([v.strip() if isinstance(v, str) else v for v in column], dtype=object)


def typed(table: "pd.DataFrame", columns: Sequence[tuple[str, bool]], path: Path) -> "pd.DataFrame":
    """The named columns, numbers as float64 (blank: NaN) and categories as text; each pair is (name, is a category).

    Raises:
        InputError: a column is missing, or a number cannot be read.
    """
    import pandas as pd

    result: dict[str, Any] = {}
    for name, is_category in columns:
        if name not in table.columns:
            raise InputError(f"{path}: no column '{name}', which the model was fitted on; it holds {_some(table)}")
        values = table[name]
        if is_category:
            result[name] = pd.Series([_text(v) for v in values], dtype=object)
            continue
        numbers = np.array([_number(v, path, name, row) for row, v in enumerate(values)], dtype=np.float64)
        result[name] = pd.Series(numbers)
    return pd.DataFrame(result)


def encode(table: "pd.DataFrame", columns: Sequence[Column]) -> NDArray[np.float32]:
    """A typed table as ``features`` (N, len(columns)) float32: categories by their code, unknown ones as -1."""
    encoded = np.empty((len(table), len(columns)), dtype=np.float32)
    for position, column in enumerate(columns):
        values = table[column.name]
        if column.kind == "category":
            codes: Mapping[Any, int] = dict(column.vocabulary)
            encoded[:, position] = [codes.get(v, -1) for v in values]
        else:
            encoded[:, position] = values.to_numpy(dtype=np.float64)
    return encoded


def raw_rows(table: "pd.DataFrame", columns: Sequence[Column]) -> NDArray[np.str_]:
    """The first rows as JSON objects, as a device would get them; a missing number is null."""
    rows = []
    for _, row in table.head(RAW_ROWS).iterrows():
        rows.append(
            json.dumps(
                {c.name: None if _is_blank(row[c.name]) and c.kind == "number" else row[c.name] for c in columns}
            )
        )
    return np.array(rows)


def _text(value: Any) -> str:
    return "" if _is_blank(value) else str(value)


def _number(value: Any, path: Path, name: str, row: int) -> float:
    if _is_blank(value):
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"{path}: column '{name}', row {row}: {value!r} is no number, and the model takes one there"
        ) from e
    return number


def _is_blank(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _some(table: "pd.DataFrame") -> str:
    names = [str(c) for c in table.columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

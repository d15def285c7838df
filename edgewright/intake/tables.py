"""Tables in ``.csv`` or ``.parquet`` files, as the user's own code has them: pandas reads them.

What a cell means on the device is decided by the runtime's own reader (`edgewright_runtime.predict.cells`), which
encodes the rows here too.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.failures import one_line
from edgewright_runtime.bundle.manifest import Column, Preprocessing
from edgewright_runtime.disk import check_plain
from edgewright_runtime.errors import InputRejectedError
from edgewright_runtime.predict.cells import ColumnReader
from edgewright_runtime.predict.encoding import as_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "encode", "is_blank", "is_table", "missing_texts", "plain", "raw_rows", "read_table"]

_SUFFIXES = {".csv", ".tsv", ".parquet"}
_KEEP = "pandas takes NA, None and nan for missing too, unless the data file says keep_default_na: false"
RAW_ROWS = 32
"""Raw rows kept as examples: golden inputs of the device and of the integration snippet."""


@dataclass(frozen=True)
class Table:
    """The rows of a file, and where there is one of the test rows' own behind them, as pandas gave them.

    ``frame`` has every column but the target, ``y`` is that: (N,) objects. ``parts``: the files with their rows.
    """

    frame: "pd.DataFrame"
    y: NDArray[Any]
    parts: tuple[tuple[Path, int], ...]

    @property
    def path(self) -> Path:
        """The file that the data file names."""
        return self.parts[0][0]

    @property
    def lengths(self) -> list[int]:
        """Rows of each file."""
        return [count for _, count in self.parts]

    def place(self, row: int) -> tuple[Path, int]:
        """The file in which a row stands, and its number there."""
        for path, count in self.parts:
            if row < count:
                return path, row
            row -= count
        raise IndexError(row)

    def named(self, row: int) -> str:
        """The same in words, with the file where there are two."""
        path, at = self.place(row)
        return f"row {at}" if len(self.parts) == 1 else f"row {at} of {path.name}"


def is_table(path: Path) -> bool:
    """Whether the name promises a table."""
    return path.suffix.lower() in _SUFFIXES


def read_table(spec: DataSpec) -> Table:
    """The rows of ``path`` and of ``test_path``, with the target apart; zeros where the data file says that there is
    none.

    Raises:
        InputError: missing, unreadable, without a row, no target, or a target that is blank in some row.
    """
    import pandas as pd

    frames, answers, parts = [], [], []
    for path in (spec.path, *([spec.test_path] if spec.test_path else [])):
        frame = _read(path, spec)
        answers.append(_target(frame, spec, path))
        frames.append(frame.drop(columns=[spec.target] if spec.target is not None else []))
        parts.append((path, len(frame)))
    joined = frames[0] if len(frames) == 1 else pd.concat(_alike(frames), ignore_index=True)
    return Table(joined, np.concatenate(answers), tuple(parts))


def missing_texts(spec: DataSpec) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The texts that pandas read as missing: in every column, and in single ones besides."""
    # A .parquet says itself what is missing.
    if not _is_text_file(spec.path):
        return (), {}
    from pandas._libs.parsers import STR_NA_VALUES  # type: ignore[import-not-found] # which pandas' own page lists

    defaults = set(STR_NA_VALUES) if spec.keep_default_na else set()
    if isinstance(spec.na_values, dict):
        return tuple(sorted(defaults)), dict(spec.na_values)
    return tuple(sorted(defaults | set(spec.na_values))), {}


def encode(frame: "pd.DataFrame", preprocessing: Preprocessing, table: Table | None = None) -> NDArray[np.float32]:
    """A frame as ``features`` (N, features) float32, each cell as the device reads it.

    Raises:
        InputError: a cell that the device would refuse; names the row and the column.
    """
    encoded = np.empty((len(frame), preprocessing.width), dtype=np.float32)
    start = 0
    for column in preprocessing.columns:
        stop = start + column.width
        encoded[:, start:stop] = _encoded(frame[column.name], column, preprocessing.missing, table)
        start = stop
    return encoded


def raw_rows(frame: "pd.DataFrame", columns: Sequence[Column], count: int = RAW_ROWS) -> NDArray[np.str_]:
    """The first rows as JSON objects, as a device would get them; what is missing is null."""
    names = list(dict.fromkeys(c.name for c in columns))
    part = frame[names].head(count)
    cells = [[as_json(plain(v)) for v in part[name]] for name in names]
    return np.array([json.dumps(dict(zip(names, row, strict=True))) for row in zip(*cells, strict=True)])


def plain(value: Any) -> Any:
    """A cell as Python's own value; what is missing, however pandas writes it, is None."""
    if is_blank(value):
        return None
    if isinstance(value, np.datetime64):  # of nanoseconds numpy makes a whole number
        import pandas as pd

        return pd.Timestamp(value)
    return value.item() if isinstance(value, np.generic) else value


def is_blank(value: Any) -> bool:
    """Whether a cell is missing: None, NaN, NaT or NA."""
    if value is None or isinstance(value, str):
        return value is None
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return (isinstance(value, (float, np.floating)) and math.isnan(value)) or type(value).__name__ in {
        "NAType",
        "NaTType",
    }


def _encoded(series: "pd.Series[Any]", column: Column, missing: Sequence[str], table: Table | None) -> NDArray[Any]:
    reader = ColumnReader(column, missing)
    # By type, too: True equals 1 in a dictionary, but not in a table of categories.
    known: dict[tuple[type, Any], Any] = {}
    cells = np.empty((len(series), column.width), dtype=np.float32)
    for row, value in enumerate(map(plain, series)):
        cell = (type(value), value)
        if cell in known:
            cells[row] = known[cell]
            continue
        try:
            cells[row] = reader.features(value, row)
        except InputRejectedError as e:
            path, at = table.place(row) if table else (Path("table"), row)
            raise InputError(f"{path}: {str(e).replace(f'row {row}: ', f'row {at}: ', 1)}") from e
        # Categories repeat; of numbers and texts hardly any cell comes twice.
        if column.kind == "category":
            known[cell] = cells[row].copy()
    return cells


def _read(path: Path, spec: DataSpec) -> "pd.DataFrame":

    try:
        check_plain(path)
        frame = _parsed(path, spec)
    except FileNotFoundError as e:
        raise InputError(f"{path}: no such file") from e
    except (OSError, ValueError, TypeError, ImportError) as e:  # pandas' own parser errors are ValueErrors
        reason = (isinstance(e, OSError) and e.strerror) or str(e) or type(e).__name__
        raise InputError(f"{path}: cannot be read as a table: {reason.splitlines()[0]}") from e
    if len(frame) == 0:
        raise InputError(f"{path}: no rows")
    unknown = [
        c for c in (*spec.dtypes, *(spec.na_values if isinstance(spec.na_values, dict) else ())) if c not in frame
    ]
    if unknown:
        raise InputError(f"{path}: no column '{unknown[0]}', which dtypes or na_values name; it holds {_some(frame)}")
    if _is_text_file(path):
        return frame
    try:
        return frame.astype(spec.dtypes)
    except (TypeError, ValueError) as e:
        raise InputError(f"{path}: cannot be read as a table: {one_line(e, 200)}") from e


def _parsed(path: Path, spec: DataSpec) -> "pd.DataFrame":
    import pandas as pd

    if not _is_text_file(path):
        if spec.na_values or not spec.keep_default_na:
            raise ValueError(
                "na_values and keep_default_na say how a .csv is read; a .parquet holds its missing values"
            )
        frame = pd.read_parquet(path)
        # It may have numbers for names.
        frame.columns = pd.Index([str(c) for c in frame.columns])
        return frame
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    given = (
        {c: list(t) for c, t in spec.na_values.items()} if isinstance(spec.na_values, dict) else list(spec.na_values)
    )
    dtypes: Any = dict(spec.dtypes)
    return pd.read_csv(path, sep=separator, dtype=dtypes, keep_default_na=spec.keep_default_na, na_values=given or None)


def _is_text_file(path: Path) -> bool:
    return path.suffix.lower() != ".parquet"


def _target(frame: "pd.DataFrame", spec: DataSpec, path: Path) -> NDArray[Any]:
    if spec.target is None and not spec.has_answers:
        return np.zeros(len(frame))
    if spec.target is None:
        without = "" if spec.metric else ". In a data file, task: none needs no answers"
        raise InputError(f"{path}: which column is the target? Name it: --target COLUMN ({_some(frame)}){without}")
    if spec.target not in frame.columns:
        raise InputError(f"{path}: no column '{spec.target}' to be the target; it holds {_some(frame)}")
    column = [plain(v) for v in frame[spec.target]]
    if None in column:
        hint = f"; {_KEEP}" if _is_text_file(path) and spec.keep_default_na else ""
        raise InputError(f"{path}: the target '{spec.target}' is blank in row {column.index(None)}{hint}")
    # Filled cell by cell: np.array would make numbers of numbers and texts of a mixture.
    y = np.empty(len(column), dtype=object)
    y[:] = column
    return y


def _alike(frames: Sequence["pd.DataFrame"]) -> Sequence["pd.DataFrame"]:
    """Categorical columns with the same categories in each frame; pandas would join different ones as text."""
    import pandas as pd

    for name in frames[0].columns:
        kinds = [f[name].dtype if name in f else None for f in frames]
        if all(isinstance(kind, pd.CategoricalDtype) for kind in kinds) and kinds[0] != kinds[1]:
            # An order says nothing of what a category is, and pandas joins none that are in different orders.
            unordered = [f[name].cat.as_unordered() for f in frames]
            try:
                both = pd.api.types.union_categoricals(unordered).categories
            except TypeError as e:  # categories of text and of numbers
                raise InputError(f"column '{name}' is of different kinds in the two files: {one_line(e, 120)}") from e
            for f, column in zip(frames, unordered, strict=True):
                f[name] = column.cat.set_categories(both)
    return frames


def _some(frame: "pd.DataFrame") -> str:
    names = [str(c) for c in frame.columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

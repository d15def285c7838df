"""A scikit-learn model and its data as a `Source`. Runs in a child process."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.artifact import ModelTask
from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import tables
from edgewright.intake.answers import Answers, answers_of_classifier, answers_of_regressor
from edgewright.intake.arrays import Samples, read_arrays, rows_of
from edgewright.intake.category_codes import category_column, spellings
from edgewright.intake.decision_threshold import decision_threshold
from edgewright.intake.estimator_graph import classes_of
from edgewright.intake.fitted_forms import knows_texts, unknown_categories_note
from edgewright.intake.onnx_nodes import has_trees
from edgewright.intake.pickle_guard import load_model
from edgewright.intake.raw_columns import Use, takes_texts
from edgewright.intake.row_check import RowCheck
from edgewright.intake.row_mixing import refuse_mixed_rows
from edgewright.intake.sklearn_source import FEATURES, answers, fitted_names, to_onnx
from edgewright.intake.source import OtherSplit, Source
from edgewright.intake.source_table import SourceTable, source_table
from edgewright_runtime.bundle.manifest import Column, Preprocessing, TensorSpec
from edgewright_runtime.predict.cells import ColumnReader

__all__ = ["SklearnSource"]

_SHOWN = 3
_MAX_FEATURE_BYTES = 2 << 30
_NUDGES = (-1e-5, -1e-6, 1e-6, 1e-5)  # of a number: beside what float32 rounds
_NUDGED_ROWS = 4096  # at once: rows may have thousands of columns


class SklearnSource(Source):
    """A fitted estimator over a table, or over a matrix of numbers; ``_given`` are rows as the estimator takes them."""

    _given: Callable[[NDArray[np.int64]], Any]

    def __init__(self, path: Path, data: DataSpec) -> None:
        self.estimator, self.data = load_model(path), data
        if data.shapes:
            raise InputError(
                f"{path}: --shape {min(data.shapes)}: a scikit-learn model has no input of free sizes; leave it out"
            )
        self._is_fitted(path)
        self.notes = _scored_by_class(self.estimator)
        threshold = decision_threshold(self.estimator)
        self.notes += () if threshold is None else (threshold.note,)
        self.notes += _ranking_note(self.estimator)
        # Judged by the file's name, as what a model was fitted on does not say what it is given.
        from_table = tables.is_table(data.path)
        self.notes += unknown_categories_note(self.estimator, table=from_table)
        if from_table:
            self._read_table()
        else:
            self._read_arrays()
        self._describe_outputs()

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The graph over ``features``, after it was compared with the model's own answers on every test row."""
        self.notes += self.check.compare(self.exported, self.reference)
        return self.exported

    def answers(self) -> tuple[list[NDArray[np.float64]], NDArray[np.int64] | None]:
        """The estimator's own scores and predictions.

        Raises:
            UnsupportedError: the answer to a row depends on the rows beside it.
        """
        rows = self.check.rows

        def asked(some: slice) -> list[NDArray[np.float64]]:
            return [self.check.asked(rows[some] if isinstance(rows, np.ndarray) else rows.iloc[some])]

        self.notes += refuse_mixed_rows(asked, [self.reference], self.outputs, float32_only=self.float32_only)
        return [self.reference], self.predicted

    def answers_to(self, split: OtherSplit) -> list[NDArray[np.float64]] | None:
        """The estimator's own scores for calibration rows; of choices between exported files its graph is the judge."""
        if split == "validation":
            return None
        try:
            return [answers(self.estimator, self._given(self.samples.rows.calibration))[0]]
        except InputError as e:
            self.notes += (f"the answers to training rows are the converted model's, since {e}",)
            return None

    def _is_fitted(self, path: Path) -> None:
        kind = type(self.estimator).__name__
        if not hasattr(self.estimator, "predict"):
            raise InputError(f"{path}: a {kind}, not a fitted scikit-learn model that predicts")
        if not hasattr(self.estimator, "n_features_in_") and not takes_texts(self.estimator):
            raise InputError(f"{path}: a {kind} that was not fitted; save it after fit")

    def _read_table(self) -> None:
        table = tables.read_table(self.data)
        # The target first: an answer that fits no class is the plainer error.
        meant = self._meaning(table.y)
        source = source_table(self.estimator, table, self.data)
        optional = source.optional_columns(self.estimator)
        source.refuse_blanks(optional)
        everywhere, somewhere = tables.missing_texts(self.data)
        columns = tuple(self._column(use, source, optional, somewhere.get(use.column, ())) for use in source.used.uses)
        self.preprocessing = Preprocessing(columns=columns, missing=everywhere)
        # Before features are encoded: so many may not fit into memory.
        self._refuse_too_wide(len(table.y))
        # From here on the model is one over numbers; `self.estimator` stays as it was for its own answers.
        self.exported = to_onnx(source.used.model, self.preprocessing.width, decimals=True)
        features = tables.encode(source.frame, self.preprocessing, table)
        rows = rows_of(self.data, meant, table.lengths)
        notes = (*source.notes, *meant.notes, *_unknown_cells(source.frame, self.preprocessing))
        self.samples = Samples({FEATURES: features}, meant.y, rows, notes, meant.labels, known=meant.known)
        self._given = lambda rows: source.given(source.frame.iloc[rows])
        test = source.frame.iloc[rows.test]
        self.raw = tables.raw_rows(test, columns)
        self._ask(self._given(rows.test))
        self.check = RowCheck(
            columns=list(dict.fromkeys(c.name for c in columns)),
            rows=test,
            asked=lambda frame: answers(self.estimator, source.given(frame))[0],
            encoded=lambda frame: tables.encode(frame, self.preprocessing),
            changed=lambda one, other, name: _mixed(test, one, other, name),
            nudged=lambda rows: _nudged(test.iloc[rows], [c.name for c in columns if c.kind == "number"]),
            place=lambda row: table.named(int(rows.test[row])),
            has_trees=has_trees(self.exported),
        )

    def _read_arrays(self) -> None:
        if takes_texts(self.estimator):
            raise InputError(f"{self.data.path}: the model takes texts; give a .csv or .parquet table")
        width = self.estimator.n_features_in_
        self.inputs = (TensorSpec(FEATURES, (-1, width), "float32"),)
        samples = read_arrays(self.data, self.inputs, self._meaning, accepts_nan=True)
        self.samples, self.preprocessing = samples, Preprocessing(scale=self.data.scale, mean=self.data.mean)
        if knows_texts(self.estimator):
            raise InputError(f"{self.data.path}: the model takes text columns; give a .csv or .parquet table")
        self.exported = to_onnx(self.estimator, width, decimals=False)
        test = samples.inputs[FEATURES][samples.rows.test]
        kind = _taken_type(self.estimator, test[:1])
        self._given = lambda rows: samples.inputs[FEATURES][rows].astype(kind)
        self._ask(self._given(samples.rows.test))
        names = fitted_names(self.estimator) or [str(i) for i in range(width)]
        self.check = RowCheck(
            columns=names,
            rows=test,
            asked=lambda rows: answers(self.estimator, rows.astype(kind))[0],
            encoded=lambda rows: rows,
            changed=lambda one, other, name: _mixed_array(test, one, other, names.index(name)),
            nudged=lambda rows: _nudged_array(test[rows]),
            place=lambda row: f"test row {row}",
            has_trees=has_trees(self.exported),
        )

    def _meaning(self, y: NDArray[Any]) -> Answers:
        if self.data.task is ModelTask.NONE:
            return Answers(np.array(y.tolist()), None, known=False)
        classes = classes_of(self.estimator)
        if classes is None:
            return answers_of_regressor(y, type(self.estimator).__name__, self.data)
        return answers_of_classifier(y, classes, self.data)

    def _column(self, use: Use, source: SourceTable, optional: set[str], missing: tuple[str, ...]) -> Column:
        taken = use.column in optional
        if use.kind == "category":
            column = category_column(use.column, source.used.tables[use.column], optional=taken)
        elif use.kind == "text":
            column = Column(use.column, "text", use.terms, words=use.words)
        else:
            column = Column(use.column, "number", _booleans(source.frame[use.column]), optional=taken)
        return dataclasses.replace(column, missing_texts=missing)

    def _refuse_too_wide(self, rows: int) -> None:
        width = self.preprocessing.width
        self.inputs = (TensorSpec(FEATURES, (-1, width), "float32"),)
        if rows * width * 4 > _MAX_FEATURE_BYTES:
            raise UnsupportedError(
                f"{self.data.path}: {rows:,} rows of {width:,} features are {rows * width * 4 / 2**30:.1f} GiB; give "
                "fewer rows, or train with fewer terms (max_features, min_df)"
            )

    def _ask(self, rows: Any) -> None:
        self.reference, predicted = answers(self.estimator, rows)
        classes = classes_of(self.estimator)
        if classes is None:
            self.predicted = None
            if self.reference.shape[1] != 1:
                raise UnsupportedError(f"the model predicts {self.reference.shape[1]} values a row; one is supported")
            return
        place = {value: i for i, value in enumerate(classes.tolist())}
        self.predicted = np.array([place[value] for value in predicted.tolist()], dtype=np.int64)
        if self.reference.shape[1] != len(classes):
            return
        # A vote (SVC with probabilities, pairs of classes) may choose another class than the greatest score.
        apart = int((self.reference.argmax(axis=1) != self.predicted).sum())
        if apart:
            self.notes += (
                f"scikit-learn's predict does not name the class of the greatest score on {apart} of "
                f"{len(self.reference)} test rows; devices do",
            )

    def _describe_outputs(self) -> None:
        self.labels = self.samples.labels
        name = self.exported.graph.output[0].name
        self.outputs = (TensorSpec(name, (-1, self.reference.shape[1]), "float32"),)
        self.float32_only = has_trees(self.exported)


def _taken_type(estimator: Any, rows: NDArray[Any]) -> Any:
    """The numbers that a model is asked with: float64, or float32 where it takes only what it was trained on."""
    for kind in (np.float64, np.float32):
        try:
            answers(estimator, rows.astype(kind))
        except InputError:
            continue
        return kind
    return np.float64  # which says why it is refused


def _booleans(series: Any) -> tuple[tuple[str, int], ...]:
    """How the texts of a column of true and false are read as numbers."""
    if not any(isinstance(tables.plain(value), bool) for value in series.drop_duplicates()):
        return ()
    return tuple((text, int(value)) for value in (False, True) for text in spellings(value))


def _mixed(frame: Any, one: int, other: int, name: str) -> Any:
    """One row of a frame, with the cell of another in a column."""
    row = frame.iloc[[one]].copy()
    row[name] = frame[name].iloc[[other]].to_numpy()
    return row.astype(frame.dtypes)


def _mixed_array(rows: NDArray[Any], one: int, other: int, column: int) -> NDArray[Any]:
    row = rows[one : one + 1].copy()
    row[0, column] = rows[other, column]
    return row


def _nudged(frame: Any, columns: Sequence[str]) -> Iterator[Any]:
    """The frame over and over, one of its numbers a little larger or smaller in turn; some thousand rows at a time."""
    import pandas as pd

    kinds = pd.api.types
    numbers = [n for n in columns if kinds.is_numeric_dtype(frame[n]) and not kinds.is_bool_dtype(frame[n])]
    # One number moved in each turn, all rows in each turn: rows of a turn stay together, as `RowCheck` tiles them.
    for piece in _pieces(list(itertools.product(numbers, _NUDGES)), len(frame)):
        yield pd.concat([frame.assign(**{n: frame[n].astype(np.float64) * (1 + step)}) for n, step in piece])


def _nudged_array(rows: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """The same of an array (N, columns)."""
    for piece in _pieces(list(itertools.product(range(rows.shape[1]), _NUDGES)), len(rows)):
        turns = np.tile(rows.astype(np.float64), (len(piece), 1, 1))
        for turn, (column, step) in enumerate(piece):
            turns[turn, :, column] *= 1 + step
        yield turns.reshape(-1, rows.shape[1])


def _pieces(turns: list[Any], rows: int) -> Iterator[list[Any]]:
    at_once = max(1, _NUDGED_ROWS // rows)
    return (turns[start : start + at_once] for start in range(0, len(turns), at_once))


def _unknown_cells(frame: Any, preprocessing: Preprocessing) -> tuple[str, ...]:
    """Columns with values that no encoder of the model knows."""
    notes = []
    for column in preprocessing.columns:
        if column.kind != "category":
            continue
        reader = ColumnReader(column, preprocessing.missing)
        counts = frame[column.name].value_counts()
        unknown = [value for value in counts.index if not reader.knows(tables.plain(value))]
        cells = sum(int(counts[value]) for value in unknown)
        if cells:
            shown = ", ".join(map(str, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
            notes.append(f"column '{column.name}': {cells} cells hold what the model was not trained on ({shown})")
    return tuple(notes)


def _ranking_note(estimator: Any) -> tuple[str, ...]:
    """What the figures of a ranker are worth."""
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if not type(final).__name__.endswith("Ranker"):
        return ()
    return (
        f"{type(final).__name__} orders rows by its scores; its accuracy is measured as that of a regression, against "
        "the target's values",
    )


def _scored_by_class(estimator: Any) -> tuple[str, ...]:
    """Scores for each class in place of one for each pair, which name no class; `predict` stays as it is."""
    final = estimator
    while hasattr(final, "best_estimator_") or hasattr(final, "steps"):
        final = final.best_estimator_ if hasattr(final, "best_estimator_") else final.steps[-1][1]
    if getattr(final, "decision_function_shape", "ovr") != "ovo" or hasattr(final, "predict_proba"):
        return ()
    final.decision_function_shape = "ovr"
    return ("decision_function_shape 'ovo' scores pairs of classes; taken in with 'ovr', a score for each class",)

"""A scikit-learn model and its data as a `Source`. Runs in a child process."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake import sklearn_source, tables
from edgewright.intake.arrays import Samples, read_arrays
from edgewright.intake.estimator_graph import classes_of
from edgewright.intake.fitted_forms import unknown_categories_note
from edgewright.intake.onnx_nodes import has_trees
from edgewright.intake.pickle_guard import load_model
from edgewright.intake.sklearn_source import ColumnKind, answers, columns_of
from edgewright.intake.source import Source, class_indices
from edgewright.intake.splits import Rows, split_rows, thinned
from edgewright.intake.table_graph import FEATURES, strings_of, with_features_input
from edgewright_runtime.manifest import Column, Preprocessing, TensorSpec

__all__ = ["SklearnSource"]


class SklearnSource(Source):
    """A fitted estimator over a table, or over a matrix of numbers."""

    def __init__(self, path: Path, data: DataSpec) -> None:
        self.estimator = load_model(path)
        if not hasattr(self.estimator, "predict") or not hasattr(self.estimator, "n_features_in_"):
            raise InputError(
                f"{path}: a {type(self.estimator).__name__}, not a fitted scikit-learn model that predicts"
            )
        self.notes = _scored_by_class(self.estimator) + unknown_categories_note(self.estimator)
        self.kinds = columns_of(self.estimator)
        from_table = tables.is_table(data.path)
        self.exported = sklearn_source.to_onnx(self.estimator, self.kinds, decimals=from_table)
        self.inputs = (TensorSpec(FEATURES, (-1, self.estimator.n_features_in_), "float32"),)
        if from_table:
            self._read_table(data)
        else:
            self._read_arrays(data)
        self._describe_outputs()

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The graph over ``features``."""
        return self.exported

    def answers(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """The estimator's own scores and predictions."""
        return self.reference, self.predicted

    def _read_table(self, data: DataSpec) -> None:
        table = tables.read_table(data.path)
        y = tables.target_of(table, data, data.path)
        lengths = [len(table)]
        if data.test_path is not None:
            import pandas as pd

            held_out = tables.read_table(data.test_path)
            y = np.concatenate([y, tables.target_of(held_out, data, data.test_path)])
            lengths.append(len(held_out))
            table = pd.concat([table, held_out], ignore_index=True)
        kinds = self.kinds or self._plain_columns(table, data)
        codes = strings_of(self.exported) if self.kinds else {}
        frame = tables.typed(table, [(k.name, k.categories is not None) for k in kinds], data.path)
        self._refuse_missing(frame, kinds, data.path)
        columns = tuple(self._column(k, codes, frame) for k in kinds)
        if self.kinds:
            with_features_input(self.exported, [k.name for k in kinds], codes)
        ignored = [str(c) for c in table.columns if c not in {k.name for k in kinds} | {data.target}]
        notes = (f"columns that the model does not use were left out: {', '.join(ignored)}",) if ignored else ()
        self.preprocessing = Preprocessing(columns=columns)
        self._split({FEATURES: tables.encode(frame, columns)}, y, lengths, data, notes)
        self.raw = tables.raw_rows(frame.iloc[self.samples.rows.test], columns)
        self._ask(frame.iloc[self.samples.rows.test] if self.kinds else frame.to_numpy()[self.samples.rows.test])

    def _read_arrays(self, data: DataSpec) -> None:
        if self.kinds and any(k.categories is not None for k in self.kinds):
            raise InputError(f"{data.path}: the model takes text columns; give a .csv or .parquet table")
        if self.kinds:
            with_features_input(self.exported, [k.name for k in self.kinds], {})
        samples = read_arrays(data, self.inputs, accepts_nan=True)
        self.preprocessing = Preprocessing(scale=data.scale, mean=data.mean)
        y, classes = samples.y, classes_of(self.estimator)
        note: tuple[str, ...] = ()
        if classes is not None:
            y, said = class_indices(y, classes, data.path)
            note = (said,) if said else ()
        self.samples = Samples(samples.inputs, y, samples.rows, samples.notes + note)
        self._ask(samples.inputs[FEATURES][samples.rows.test].astype(np.float64))

    def _split(
        self, inputs: dict[str, Any], y: Any, lengths: list[int], data: DataSpec, notes: tuple[str, ...]
    ) -> None:
        classes = classes_of(self.estimator)
        if classes is None:
            y = np.array([_answer(v, data.path, row) for row, v in enumerate(y)])
        else:
            y, said = class_indices(y, classes, data.path)
            notes += (said,) if said else ()
        stratify = classes is not None
        if len(lengths) == 1:
            training, test = split_rows(y, test_fraction=data.test_fraction, seed=data.seed, classes=stratify)
        else:
            training, test = np.arange(lengths[0]), np.arange(lengths[0], sum(lengths))
        rows = Rows(*thinned(training, y, seed=data.seed, classes=stratify), test)
        self.samples = Samples(inputs, y, rows, notes)

    def _plain_columns(self, table: Any, data: DataSpec) -> tuple[ColumnKind, ...]:
        names = [str(c) for c in table.columns if c != data.target]
        if len(names) != self.estimator.n_features_in_:
            raise InputError(
                f"{data.path}: {len(names)} columns besides the target, but the model takes "
                f"{self.estimator.n_features_in_} and does not name them"
            )
        return tuple(ColumnKind(n, None) for n in names)

    def _refuse_missing(self, frame: Any, kinds: tuple[ColumnKind, ...], path: Path) -> None:
        """NaN is an error unless the model itself takes it in that column."""
        self.optional: set[str] = set()
        complete = frame.dropna()
        if len(complete) == 0:
            raise InputError(f"{path}: every row has a blank number somewhere")
        probe = complete.head(1)
        for kind in kinds:
            if kind.categories is not None:
                continue
            with_blank = probe.assign(**{kind.name: float("nan")})
            try:
                answers(self.estimator, with_blank if self.kinds else with_blank.to_numpy())
            except InputError:
                blank = np.flatnonzero(frame[kind.name].isna())
                if len(blank):
                    raise InputError(
                        f"{path}: column '{kind.name}' is blank in row {blank[0]}, "
                        "and the model takes no missing value there"
                    ) from None
            else:
                self.optional.add(kind.name)

    def _column(self, kind: ColumnKind, codes: dict[str, int], frame: Any) -> Column:
        if kind.categories is None:
            return Column(kind.name, "number", optional=kind.name in self.optional)
        vocabulary = tuple((str(c), codes[str(c)]) for c in kind.categories if str(c) in codes)
        return Column(kind.name, "category", vocabulary)

    def _ask(self, rows: Any) -> None:
        self.reference, predicted = answers(self.estimator, rows)
        classes = classes_of(self.estimator)
        self.predicted = None if classes is None else np.searchsorted(classes, predicted).astype(np.int64)
        if classes is None or self.predicted is None or self.reference.shape[1] != len(classes):
            return
        apart = int((self.reference.argmax(axis=1) != self.predicted).sum())
        if apart:
            self.notes += (
                f"scikit-learn's predict does not name the class of the greatest score on {apart} of "
                f"{len(self.reference)} test rows; devices do",
            )

    def _describe_outputs(self) -> None:
        classes = classes_of(self.estimator)
        self.labels = None if classes is None else tuple(str(c) for c in classes)
        name = self.exported.graph.output[0].name
        self.outputs = (TensorSpec(name, (-1, self.reference.shape[1]), "float32"),)
        self.float32_only = has_trees(self.exported)


def _scored_by_class(estimator: Any) -> tuple[str, ...]:
    """Scores for each class in place of one for each pair, which name no class; `predict` stays as it is."""
    final = estimator
    while hasattr(final, "best_estimator_") or hasattr(final, "steps"):
        final = final.best_estimator_ if hasattr(final, "best_estimator_") else final.steps[-1][1]
    if getattr(final, "decision_function_shape", "ovr") != "ovo" or hasattr(final, "predict_proba"):
        return ()
    final.decision_function_shape = "ovr"
    return ("decision_function_shape 'ovo' scores pairs of classes; taken in with 'ovr', a score for each class",)


def _answer(value: Any, path: Path, row: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as e:
        raise InputError(f"{path}: the target in row {row} is {value!r}; a regressor needs numbers") from e

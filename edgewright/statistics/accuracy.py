"""How right a model is on test rows, and what it loses against its source on the same rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import ModelTask
from edgewright.errors import InputError
from edgewright.measurement import Accuracy, AccuracyDrop, ClassAccuracy
from edgewright.statistics import intervals

__all__ = ["RowAnswers", "accuracy_of", "compare_accuracy", "per_class", "worst_class"]

RowAnswers = NDArray[np.int64] | NDArray[np.float64]


def accuracy_of(task: ModelTask, truth: RowAnswers, answers: RowAnswers) -> Accuracy:
    """Accuracy of class indices (N,), or R² of numbers (N,) or (N, K), over all of them, with its 95% interval by row.

    Raises:
        InputError: no rows, or a regressor's truth that never varies.
    """
    _check(task, truth, answers)
    if task is ModelTask.CLASSIFICATION:
        interval = intervals.wilson(int((truth == answers).sum()), len(truth))
        return Accuracy(metric="accuracy", rows=len(truth), **interval.model_dump())
    interval = intervals.r2_interval(_by_row(truth, truth), _by_row(answers, truth))
    return Accuracy(metric="r2", rows=len(truth), **interval.model_dump())


def compare_accuracy(task: ModelTask, truth: RowAnswers, source: RowAnswers, candidate: RowAnswers) -> AccuracyDrop:
    """A paired test of the candidate against the source on the same rows.

    Classifiers: McNemar's exact mid-p test, interval of Bonett and Price. Regressors: paired bootstrap of R².
    """
    _check(task, truth, source)
    _check(task, truth, candidate)
    if task is ModelTask.REGRESSION:
        interval, p_value = intervals.r2_drop(_by_row(truth, truth), _by_row(source, truth), _by_row(candidate, truth))
        return AccuracyDrop(
            percent=100 * interval.value,
            low_percent=100 * interval.low,
            high_percent=100 * interval.high,
            p_value=p_value,
            test="paired bootstrap of R²",
        )
    right_source, right_candidate = truth == source, truth == candidate
    only_source = int((right_source & ~right_candidate).sum())
    only_candidate = int((~right_source & right_candidate).sum())
    interval = intervals.paired_difference(only_source, only_candidate, len(truth))
    return AccuracyDrop(
        percent=100 * interval.value,
        low_percent=100 * interval.low,
        high_percent=100 * interval.high,
        p_value=intervals.mcnemar(only_source, only_candidate),
        test="McNemar mid-p",
        only_source_right=only_source,
        only_candidate_right=only_candidate,
    )


def per_class(
    truth: RowAnswers, source: RowAnswers, candidate: RowAnswers, labels: Sequence[str]
) -> tuple[ClassAccuracy, ...]:
    """The share of each class's rows that source and candidate get right; classes without test rows are left out."""
    table = []
    for index in np.unique(truth):
        rows = truth == index
        table.append(
            ClassAccuracy(
                label=labels[index] if 0 <= index < len(labels) else str(index),
                rows=int(rows.sum()),
                source=float((source[rows] == index).mean()),
                candidate=float((candidate[rows] == index).mean()),
            )
        )
    return tuple(table)


def worst_class(table: Sequence[ClassAccuracy]) -> ClassAccuracy | None:
    """The class that loses most against the source, which an average over all rows can hide; None for regressors."""
    return max(table, key=lambda row: row.drop_percent, default=None)


def _by_row(values: RowAnswers, truth: RowAnswers) -> NDArray[np.float64]:
    """(N, K): the numbers of a row are drawn together, as they are not observations of their own."""
    return np.asarray(values, np.float64).reshape(len(truth), -1)


def _check(task: ModelTask, truth: RowAnswers, answers: RowAnswers) -> None:
    if len(truth) == 0:
        raise InputError("the test split has no rows: accuracy cannot be measured")
    # By their number: (N, 1) answers are compared with (N,) true ones.
    if truth.size != answers.size:
        raise InputError(f"{truth.size} true answers in the test split, the model gave {answers.size}")
    if task is ModelTask.REGRESSION and np.ptp(np.asarray(truth, np.float64)) == 0:
        raise InputError("all true answers in the test split are equal: R² has no meaning; give rows that vary")

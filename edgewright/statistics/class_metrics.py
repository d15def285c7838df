"""Figures of classes: of one or several labels a row."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.statistics.metric_rows import Arrays, Floats, MisfitError, Rows, mean_of_defined, only, threshold

__all__ = [
    "CLASSES",
    "SCORES",
    "average_precision",
    "classes_and_answers",
    "f1",
    "label_scores",
    "macro_f1",
    "multilabel_f1",
    "multilabel_roc_auc",
    "ranked_scores",
    "roc_auc",
    "scores_and_answers",
    "top5_accuracy",
    "two_classes_and_answers",
]

SCORES, CLASSES = "scores", "classes"  # the outputs of a classifier, as its decision reads them


def scores_and_answers(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
    """Scores (N, C) and true classes (N,)."""
    if SCORES not in outputs:
        raise MisfitError("the model answers with classes, without scores")
    return outputs[SCORES], answers


def classes_and_answers(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
    """Predicted and true classes, (N,) each."""
    return outputs[CLASSES].astype(np.int64), answers.astype(np.int64)


def top5_accuracy(rows: Rows) -> float:
    """The share of rows whose true class has one of the five largest scores."""
    scores, truth = rows
    own = scores[np.arange(len(truth)), truth][:, None]
    # Ties count against the model: an output that is constant must not be right everywhere.
    return float(((scores >= own).sum(axis=1) <= 5).mean())


def macro_f1(rows: Rows) -> float:
    """The mean of F1 over classes that occur or are predicted."""
    from sklearn.metrics import f1_score

    predicted, truth = rows
    return float(f1_score(truth, predicted, average="macro", zero_division=0.0))


def two_classes_and_answers(outputs: Arrays, answers: NDArray[Any], reference: Arrays) -> Rows:
    """Predicted and true classes, (N,) each, 0 and 1."""
    predicted, truth = classes_and_answers(outputs, answers, reference)
    if (SCORES in outputs and outputs[SCORES].shape[1] != 2) or truth.max(initial=0) > 1:
        raise MisfitError("the model has more than two classes (macro_f1 is of several)")
    return predicted, truth


def f1(rows: Rows) -> float:
    """F1 of the second class; NaN where it neither occurs nor is predicted."""
    predicted, truth = rows
    true_positives = int(((predicted == 1) & (truth == 1)).sum())
    either = int((predicted == 1).sum() + (truth == 1).sum())
    return 2 * true_positives / either if either else float("nan")


def ranked_scores(outputs: Arrays, answers: NDArray[Any], reference: Arrays) -> Rows:
    """Ranks of the scores (N, C), one column for two classes, and true classes (N,): sorted once, not for each draw."""
    scores, truth = scores_and_answers(outputs, answers, reference)
    # Of two classes: how much larger the second's score is.
    return _ranks(scores[:, 1:] - scores[:, :1] if scores.shape[1] == 2 else scores), truth


def _ranks(scores: Floats) -> NDArray[np.int64]:
    """Of each column, from 0; equal scores have equal ranks."""
    columns = [np.unique(column, return_inverse=True)[1] for column in scores.T]
    return np.stack(columns, axis=1).astype(np.int64).reshape(scores.shape)


def _per_class(rows: Rows, figure: Callable[[NDArray[np.int64], NDArray[np.bool_]], float]) -> float:
    ranks, truth = rows
    if ranks.shape[1] == 1:
        return figure(ranks[:, 0], truth == 1)
    # Of several classes each against the others, those that occur.
    return mean_of_defined([figure(ranks[:, c], truth == c) for c in np.unique(truth)])


def roc_auc(rows: Rows) -> float:
    """The area under the ROC curve; NaN where one class alone occurs."""
    return _per_class(rows, _area)


def average_precision(rows: Rows) -> float:
    """The mean precision over recall; NaN where no row is of the second class."""
    return _per_class(rows, _precision)


def _area(ranks: NDArray[np.int64], positive: NDArray[np.bool_]) -> float:
    """The share of pairs of a true and a false row in which the true one ranks higher; a tie is half (Mann-Whitney)."""
    size = int(ranks.max(initial=0)) + 1
    true, false = (np.bincount(ranks[side], minlength=size) for side in (positive, ~positive))
    pairs = int(true.sum()) * int(false.sum())
    below = np.cumsum(false) - false
    return float((true * (below + 0.5 * false)).sum() / pairs) if pairs else float("nan")


def _precision(ranks: NDArray[np.int64], positive: NDArray[np.bool_]) -> float:
    """Precision at each score from the highest down, weighted by the recall that it adds."""
    size = int(ranks.max(initial=0)) + 1
    true, every = (np.bincount(ranks[side], minlength=size)[::-1] for side in (positive, slice(None)))
    if not true.any():
        return float("nan")
    precision = np.cumsum(true) / np.maximum(np.cumsum(every), 1)
    return float((precision * true).sum() / true.sum())


def label_scores(outputs: Arrays, answers: NDArray[Any], reference: Arrays) -> Rows:
    """Whether each score lies above the threshold, its rank, and whether the label holds, (N, L) each."""
    if answers.ndim != 2 or not np.isin(answers, (0, 1)).all():
        raise MisfitError("answers are not 0 and 1 for each label")
    name = only(outputs, lambda array: array.shape == answers.shape)
    return outputs[name] > threshold(reference[name]), _ranks(outputs[name]), answers == 1


def multilabel_f1(rows: Rows) -> float:
    """The mean of F1 over labels."""
    predicted, _, truth = rows
    right, either = (predicted & truth).sum(axis=0), predicted.sum(axis=0) + truth.sum(axis=0)
    # A label that neither occurs nor is predicted is 0, as in torchmetrics and scikit-learn.
    return float(np.divide(2 * right, either, out=np.zeros(len(either)), where=either > 0).mean())


def multilabel_roc_auc(rows: Rows) -> float:
    """The mean area under the ROC curve over labels that hold in some rows and not in others."""
    _, ranks, truth = rows
    return mean_of_defined([_area(ranks[:, i], truth[:, i]) for i in range(truth.shape[1])])

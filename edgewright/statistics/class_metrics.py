"""Figures of classes: of one or several labels a row."""

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
    "roc_auc",
    "scores_and_answers",
    "top5_accuracy",
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


def f1(rows: Rows) -> float:
    """F1 of the second class; NaN where it neither occurs nor is predicted."""
    predicted, truth = rows
    true_positives = int(((predicted == 1) & (truth == 1)).sum())
    either = int((predicted == 1).sum() + (truth == 1).sum())
    return 2 * true_positives / either if either else float("nan")


def _margin(rows: Rows) -> tuple[Floats, NDArray[np.bool_]]:
    """Of two classes: how much larger the second's score is, and whether it is the true one."""
    scores, truth = rows
    return scores[:, 1] - scores[:, 0], truth == 1


def roc_auc(rows: Rows) -> float:
    """The area under the ROC curve; NaN where one class alone occurs."""
    scores, truth = rows
    if scores.shape[1] == 2:
        return _area(*_margin(rows))
    # Of several classes each against the others, those that occur.
    return mean_of_defined([_area(scores[:, c], truth == c) for c in np.unique(truth)])


def average_precision(rows: Rows) -> float:
    """The mean precision over recall; NaN where no row is of the second class."""
    from sklearn.metrics import average_precision_score

    scores, truth = rows
    if scores.shape[1] == 2:
        margin, positive = _margin(rows)
        return float(average_precision_score(positive, margin)) if positive.any() else float("nan")
    return mean_of_defined([float(average_precision_score(truth == c, scores[:, c])) for c in np.unique(truth)])


def _area(scores: Floats, positive: NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores)) if positive.any() and not positive.all() else float("nan")


def label_scores(outputs: Arrays, answers: NDArray[Any], reference: Arrays) -> Rows:
    """How far each score lies above the threshold, and whether the label holds, (N, L) each."""
    if answers.ndim != 2 or not np.isin(answers, (0, 1)).all():
        raise MisfitError("answers are not 0 and 1 for each label")
    name = only(outputs, lambda array: array.shape == answers.shape)
    return outputs[name] - threshold(reference[name]), answers == 1


def multilabel_f1(rows: Rows) -> float:
    """The mean of F1 over labels."""
    margin, truth = rows
    predicted = margin > 0
    right, either = (predicted & truth).sum(axis=0), predicted.sum(axis=0) + truth.sum(axis=0)
    # A label that neither occurs nor is predicted is 0, as in torchmetrics and scikit-learn.
    return float(np.divide(2 * right, either, out=np.zeros(len(either)), where=either > 0).mean())


def multilabel_roc_auc(rows: Rows) -> float:
    """The mean area under the ROC curve over labels that hold in some rows and not in others."""
    margin, truth = rows
    return mean_of_defined([_area(margin[:, i], truth[:, i]) for i in range(truth.shape[1])])

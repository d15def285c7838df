"""Whether the source model is good enough to be worth deploying: wrong labels or a wrong scale look like a poor one.

Two doubts, judged by 95% intervals:

- *Barely better than chance.* Classification: the mean recall over the classes, which is 1 / classes for any answer
  that does not look at the row, a constant one included (accuracy is not: on 95% negatives a useful model that balances
  its errors has less of it than "always no"). Doubtful where its interval reaches down to chance, or where it is less
  than a tenth of the way from there to 1. Regression: R², which is 0 for the mean; doubtful where its interval reaches
  0, or below 0.1.
- *Far worse than on training rows.* The accuracy (R²) on test rows against that on training rows: doubtful where more
  than 20 points lie between their intervals, and more than half of what the model was better by than the best constant
  answer is gone. A forest that knows its training rows by heart loses less than that wherever it has learnt something.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset, ImportedModel, ModelTask
from edgewright.measurement import Accuracy, Interval
from edgewright.statistics.accuracy import RowAnswers, accuracy_of
from edgewright.statistics.intervals import wilson
from edgewright.validate.evaluation import source_answers

__all__ = ["doubts", "mean_recall", "source_doubts"]

_MIN_SKILL = 0.1
_GAP = 0.2
_KEPT = 0.5
_LOOK = "wrong labels, or inputs read or scaled otherwise than in training, look like this"


def source_doubts(model: ImportedModel, dataset: Dataset, *, timeout_s: float = 900) -> tuple[str, ...]:
    """What is doubtful about the source's own answers, a sentence each; empty where nothing is, and where
    nobody knows the true answers.

    The training rows are those of the ``calibration`` split, at most a thousand, with all classes in their shares.

    Raises:
        InputError, ConversionError: as `evaluate`.
    """
    if model.task is ModelTask.NONE:
        return ()
    test = source_answers(model, dataset, "test", timeout_s=timeout_s)
    training = source_answers(model, dataset, "calibration", timeout_s=timeout_s)
    return doubts(model.task, test, training, model.labels)


def doubts(
    task: ModelTask,
    test: tuple[RowAnswers, RowAnswers],
    training: tuple[RowAnswers, RowAnswers],
    labels: Sequence[str] = (),
) -> tuple[str, ...]:
    """The same of pairs (truth, the source's answers), (N,) class indices or (N,) values."""
    reached = accuracy_of(task, *test)
    if task is ModelTask.CLASSIFICATION:
        share, majority = _majority(test[0])
        skill_doubt = _near_chance(*test, reached, _label(labels, majority), share)
    else:
        share = 0.0
        skill_doubt = _near_the_mean(reached)
    far = _far_from_training(task, reached, training, share)
    return tuple(doubt for doubt in (skill_doubt, far) if doubt)


def mean_recall(truth: NDArray[np.int64], answers: NDArray[np.int64]) -> Interval:
    """The mean over the classes of the share of their rows that are right, 0-1, with its 95% interval.

    Wilson's interval for each class, and those of a mean of them recovered by MOVER (Zou and Donner 2008).
    """
    own = [answers[truth == index] == index for index in np.unique(truth)]
    each = [wilson(int(right.sum()), len(right)) for right in own]
    value = float(np.mean([interval.value for interval in each]))
    below = math.hypot(*(interval.value - interval.low for interval in each)) / len(each)
    above = math.hypot(*(interval.high - interval.value for interval in each)) / len(each)
    return Interval(value=value, low=value - below, high=value + above)


def _near_chance(truth: RowAnswers, answers: RowAnswers, reached: Accuracy, majority: str, share: float) -> str:
    classes = len(np.unique(truth))
    # With one class in the test rows, answering by chance is always right.
    if classes < 2:
        return ""
    recall, chance = mean_recall(truth.astype(np.int64), answers.astype(np.int64)), 1 / classes
    skill = (recall.value - chance) / (1 - chance)
    if recall.low > chance and skill >= _MIN_SKILL:
        return ""
    return (
        f"the source model is barely better than chance: of each of the {classes} classes it has {recall.value:.1%} "
        f"right in the mean (95% {recall.low:.1%} to {recall.high:.1%}), where chance has {chance:.1%}; its accuracy "
        f"is {reached.value:.1%}, that of always answering '{majority}' {share:.1%}; {_LOOK}"
    )


def _near_the_mean(reached: Accuracy) -> str:
    if reached.low > 0 and reached.value >= _MIN_SKILL:
        return ""
    return (
        f"the source model is barely better than always answering the mean: R² {reached.value:.3f} (95% "
        f"{reached.low:.3f} to {reached.high:.3f}); {_LOOK}"
    )


def _far_from_training(
    task: ModelTask, reached: Accuracy, training: tuple[RowAnswers, RowAnswers], constant: float
) -> str:
    truth = training[0]
    # R2 divides by the variation of the truth, which one row or equal ones do not have.
    if len(truth) < 2 or (task is ModelTask.REGRESSION and np.ptp(np.asarray(truth, np.float64)) == 0):
        return ""
    before = accuracy_of(task, *training)
    if before.low - reached.high <= _GAP or reached.high - constant >= _KEPT * (before.low - constant):
        return ""
    figure = "accuracy" if task is ModelTask.CLASSIFICATION else "R²"
    return (
        f"the source model is far worse on test rows than on training rows: {figure} {reached.value:.3f} (95% "
        f"{reached.low:.3f} to {reached.high:.3f}) against {before.value:.3f}; it has learnt its rows by heart, or the "
        "test rows were prepared otherwise"
    )


def _majority(truth: RowAnswers) -> tuple[float, int]:
    classes, counts = np.unique(truth, return_counts=True)
    most = int(counts.argmax())
    return float(counts[most] / counts.sum()), int(classes[most])


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if 0 <= index < len(labels) else str(index)

"""Metrics by name: what a data file's ``metric`` may say without code of the user's own.

A metric is *prepared* once, into numbers for each row, and *figured* from those: a draw of rows for the interval costs
a selection, not the matching of boxes or the counting of pixels anew. This is why these are here, on NumPy and
scikit-learn, and not torchmetrics' own. The tests hold each to torchmetrics, or to pycocotools, on random cases.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edgewright.errors import InputError
from edgewright.statistics import box_metrics, class_metrics, row_metrics
from edgewright.statistics.metric_rows import Arrays, MisfitError, Rows, share

__all__ = ["figured", "prepared"]


class _Metric(NamedTuple):
    """``prepare`` takes outputs, answers and the source's outputs; ``needs`` says of what form."""

    needs: str
    prepare: Callable[[Arrays, NDArray[Any], Arrays], Rows]
    figure: Callable[[Rows], float]


def prepared(name: str, outputs: Arrays, answers: NDArray[Any], reference: Arrays) -> Rows:
    """Arrays of N rows each, whose rows may be drawn.

    ``outputs`` are (N, ...) by name; of a classifier `class_metrics.SCORES` (N, C) and `class_metrics.CLASSES` (N,).
    ``reference`` are the source's own: rules such as a threshold are found there, and hold for every file made of it.

    Raises:
        InputError: answers or outputs of another form than the metric needs.
    """
    metric = _METRICS[name]
    try:
        return metric.prepare(outputs, answers, reference)
    except MisfitError as e:
        shapes = ", ".join(f"{output} {list(array.shape)}" for output, array in outputs.items())
        raise InputError(
            f"metric {name}: {e}; needed: {metric.needs}; found: answers {list(answers.shape)} of {answers.dtype}, "
            f"outputs {shapes}"
        ) from e


def figured(name: str, rows: Rows) -> float:
    """The metric on such rows; NaN where they leave it undefined, as one class alone does an area under a curve."""
    return _METRICS[name].figure(rows)


_OF_CLASSES = "a classifier's scores, and answers (N,)"
_OF_TOKENS = "scores (N, T, V), and answers (N, T) of which -100 does not count"
_LABELS = "scores (N, L), and answers (N, L) of 0 and 1"
_SAME = "an output of the answers' shape"
_IDENTITIES = "one output of vectors (N, D), and answers (N,): which rows are of the same thing"

_METRICS: dict[str, _Metric] = {
    "top5_accuracy": _Metric(_OF_CLASSES, class_metrics.scores_and_answers, class_metrics.top5_accuracy),
    "macro_f1": _Metric(_OF_CLASSES, class_metrics.classes_and_answers, class_metrics.macro_f1),
    "f1": _Metric("a classifier of two classes", class_metrics.two_classes_and_answers, class_metrics.f1),
    "roc_auc": _Metric(_OF_CLASSES, class_metrics.ranked_scores, class_metrics.roc_auc),
    "average_precision": _Metric(_OF_CLASSES, class_metrics.ranked_scores, class_metrics.average_precision),
    "multilabel_f1": _Metric(_LABELS, class_metrics.label_scores, class_metrics.multilabel_f1),
    "multilabel_roc_auc": _Metric(_LABELS, class_metrics.label_scores, class_metrics.multilabel_roc_auc),
    "mae": _Metric(_SAME, row_metrics.errors, row_metrics.mae),
    "rmse": _Metric(_SAME, row_metrics.errors, row_metrics.rmse),
    "cosine": _Metric(_SAME, row_metrics.cosines, lambda rows: float(rows[0].mean())),
    "mean_iou": _Metric(
        "answers (N, H, W), 255 where nothing counts, and scores (N, C, H, W), (N, H, W, C) or classes (N, H, W)",
        row_metrics.overlaps,
        row_metrics.mean_iou,
    ),
    "mean_average_precision": _Metric(box_metrics.NEEDS, box_metrics.matches, box_metrics.mean_average_precision),
    "pck": _Metric("points (N, K, 2), in the answers NaN where there is none", row_metrics.near_points, share),
    "recall_at_1": _Metric(_IDENTITIES, row_metrics.neighbours(1), share),
    "recall_at_5": _Metric(_IDENTITIES, row_metrics.neighbours(5), share),
    "token_accuracy": _Metric(_OF_TOKENS, row_metrics.right_tokens, share),
    "perplexity": _Metric(_OF_TOKENS, row_metrics.surprise, row_metrics.perplexity),
}

"""Figures of values, vectors, pixels, points and tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.statistics.metric_rows import Arrays, Floats, MisfitError, Rows, are_probabilities, only, threshold

__all__ = [
    "cosines",
    "errors",
    "mae",
    "mean_iou",
    "near_points",
    "neighbours",
    "overlaps",
    "perplexity",
    "right_tokens",
    "rmse",
    "surprise",
]

_IGNORED_PIXEL, _IGNORED_TOKEN = 255, -100  # as segmentation data sets and transformers mark what does not count
_NEAR = 0.2  # of the larger side of a row's true points' box: a point this near is right


def errors(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
    """Output less answer, (N, K)."""
    # (N,) and (N, 1) are the same targets.
    flat = answers.reshape(len(answers), -1).astype(np.float64)
    fits = [name for name, array in outputs.items() if array.reshape(len(array), -1).shape == flat.shape]
    if not fits:
        raise MisfitError("no output has the answers' shape")
    # The first of them, as R² takes it.
    return (outputs[fits[0]].reshape(flat.shape) - flat,)


def mae(rows: Rows) -> float:
    """Mean absolute error."""
    return float(np.abs(rows[0]).mean())


def rmse(rows: Rows) -> float:
    """Root of the mean squared error, the mean over targets."""
    # Of several targets the mean of each one's own, which may have a unit of its own.
    return float(np.sqrt(np.square(rows[0]).mean(axis=0)).mean())


def cosines(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
    """The cosine between each output and its answer, (N,); 0 where one of them is zero."""
    name = only(outputs, lambda array: array.shape == answers.shape)
    given, truth = (array.reshape(len(array), -1).astype(np.float64) for array in (outputs[name], answers))
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(truth, axis=1)
    return (np.divide((given * truth).sum(axis=1), norms, out=np.zeros(len(norms)), where=norms > 0),)


def overlaps(outputs: Arrays, answers: NDArray[Any], reference: Arrays) -> Rows:
    """For each row and class: pixels of both, of the prediction, of the answer."""
    if answers.ndim != 3 or not np.array_equal(answers, np.rint(answers)):
        raise MisfitError("answers are not a class for each pixel")
    truth = answers.astype(np.int64)
    name = only(outputs, lambda array: _class_axis(array, truth.shape) is not None)
    predicted = _pixels_of(outputs[name], _class_axis(outputs[name], truth.shape), reference[name])
    counted = truth != _IGNORED_PIXEL
    if (truth[counted] < 0).any():
        raise MisfitError("answers hold classes below 0")
    classes = 1 + max(int(array[counted].max(initial=0)) for array in (truth, predicted))
    tables = np.zeros((3, len(truth), classes), np.int64)
    for row, counts in enumerate(counted):
        p, t = predicted[row][counts], truth[row][counts]
        for table, values in zip(tables, (p[p == t], p, t), strict=True):
            table[row] = np.bincount(values, minlength=classes)
    return tuple(tables)


def _class_axis(output: Floats, shape: tuple[int, ...]) -> int | None:
    """Where scores (N, C, H, W) or (N, H, W, C) have their classes; 0 of (N, H, W) itself; None where nothing fits."""
    if output.shape == shape:
        return 0
    axes = (1, 3) if output.ndim == 4 else ()
    return next((axis for axis in axes if output.shape[:axis] + output.shape[axis + 1 :] == shape), None)


def _pixels_of(output: Floats, axis: int | None, reference: Floats) -> NDArray[np.int64]:
    """Classes (N, H, W), read as the source's own output is to be read."""
    if axis and output.shape[axis] > 1:
        classes: NDArray[np.int64] = output.argmax(axis=axis)
        return classes
    single = output.squeeze(axis) if axis else output
    # Whole numbers from 0 are classes themselves, others a score for the second of two.
    if reference.min(initial=0.0) >= 0 and np.array_equal(reference, np.rint(reference)):
        return np.clip(np.rint(single), 0, None).astype(np.int64)
    return (single > threshold(reference)).astype(np.int64)


def mean_iou(rows: Rows) -> float:
    """The mean intersection over union of classes that occur or are predicted; NaN where no pixel counts."""
    both, predicted, truth = (array.sum(axis=0) for array in rows)
    union = predicted + truth - both
    # Classes that neither occur nor are predicted have no overlap to speak of.
    return float((both[union > 0] / union[union > 0]).mean()) if (union > 0).any() else float("nan")


def near_points(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
    """For each row: right points, and points that count."""
    if answers.ndim != 3 or answers.shape[2] != 2:
        raise MisfitError("answers are not points")
    name = only(outputs, lambda array: array.reshape(len(array), -1).shape[1] == answers[0].size)
    truth, given = answers.astype(np.float64), outputs[name].reshape(answers.shape)
    # A point that is not in the picture is NaN in the answers.
    counted = np.asarray(np.isfinite(truth).all(axis=2))
    low = np.where(counted[..., None], truth, np.inf).min(axis=1)
    high = np.where(counted[..., None], truth, -np.inf).max(axis=1)
    side = np.where(counted.any(axis=1), (high - low).max(axis=1), 0.0)
    distance = np.linalg.norm(np.where(counted[..., None], given - truth, np.inf), axis=2)
    return (distance <= _NEAR * side[:, None]).sum(axis=1), counted.sum(axis=1)


def neighbours(nearest: int) -> Callable[[Arrays, NDArray[Any], Arrays], Rows]:
    """For rows and so many of their nearest others by cosine."""

    def prepare(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
        """For each row: whether one of its nearest others is of the same identity, and whether it has such another."""
        if answers.ndim != 1:
            raise MisfitError("answers are not one identity a row")
        vectors = outputs[only(outputs, lambda array: array.ndim == 2 and array.shape[1] > 1)]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        directions = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        identity, count = np.unique(answers, return_inverse=True, return_counts=True)[1:]
        hits = np.zeros(len(vectors), np.int64)
        reach = min(nearest, len(vectors) - 1)
        # In blocks: the similarities of all rows with all others need not be held at once.
        for start in range(0, len(vectors) if reach else 0, 1024):
            block = directions[start : start + 1024] @ directions.T
            own = np.arange(len(block))
            block[own, start + own] = -np.inf
            closest = np.argpartition(-block, reach - 1, axis=1)[:, :reach]
            hits[start + own] = (identity[closest] == identity[start + own, None]).any(axis=1)
        counted = (count[identity] > 1).astype(np.int64)
        return hits * counted, counted

    return prepare


def _token_scores(outputs: Arrays, answers: NDArray[Any]) -> str:
    if answers.ndim != 2 or not np.array_equal(answers, np.rint(answers)):
        raise MisfitError("answers are not one class a token")
    name = only(outputs, lambda array: array.ndim == 3 and array.shape[:2] == answers.shape)
    counted = answers[answers != _IGNORED_TOKEN]
    if len(counted) and not (counted.min() >= 0 and counted.max() < outputs[name].shape[2]):
        raise MisfitError(
            f"answers from {counted.min()} to {counted.max()} for {outputs[name].shape[2]} scores a token"
        )
    return name


def right_tokens(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
    """For each row: right tokens, and tokens that count."""
    scores = outputs[_token_scores(outputs, answers)]
    counted = answers != _IGNORED_TOKEN
    return ((scores.argmax(axis=2) == answers) & counted).sum(axis=1), counted.sum(axis=1)


def surprise(outputs: Arrays, answers: NDArray[Any], reference: Arrays) -> Rows:
    """For each row: the sum of -log p of its true tokens, and how many there are."""
    name = _token_scores(outputs, answers)
    scores, counted = outputs[name], answers != _IGNORED_TOKEN
    if are_probabilities(reference[name]):
        logs = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    else:
        # Less their largest, so that no exponential overflows.
        logs = scores - scores.max(axis=2, keepdims=True)
        logs = logs - np.log(np.exp(logs).sum(axis=2, keepdims=True))
    true = np.take_along_axis(logs, np.where(counted, answers, 0).astype(np.int64)[..., None], axis=2)[..., 0]
    return -np.where(counted, true, 0.0).sum(axis=1), counted.sum(axis=1)


def perplexity(rows: Rows) -> float:
    """The exponential of the mean surprise of a true token; NaN where none counts."""
    surprise, counted = (float(array.sum()) for array in rows)
    return float(np.exp(surprise / counted)) if counted else float("nan")

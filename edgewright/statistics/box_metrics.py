"""COCO's mean average precision of boxes, mAP@[.5:.95], from matches that are made once for each image.

As pycocotools' ``COCOeval`` has it: at most 100 boxes of an image and class, ten overlaps from 0.5 to 0.95, precision
at 101 points of recall, the mean over classes that occur. Areas count all alike, and there are no crowds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.statistics.metric_rows import Arrays, Floats, MisfitError, Rows

__all__ = ["NEEDS", "matches", "mean_average_precision"]

NEEDS = (
    "boxes (N, D, 4) as x1, y1, x2, y2, and scores (N, D) with labels (N, D), or scores (N, D, C); answers (N, G, 5): "
    "a box and its class, rows of -1 where there are fewer than G"
)
_OVERLAPS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MAX_BOXES = 100
_LEFT_OUT = -1  # no class of the answers


def matches(outputs: Arrays, answers: NDArray[Any], _: Arrays) -> Rows:
    """For each image: scores (N, D), classes (N, D), whether each matches (N, D, 10), true boxes of each class (N, C).

    Raises:
        MisfitError: outputs or answers of another form.
    """
    if answers.ndim != 3 or answers.shape[2] != 5:
        raise MisfitError("answers are not boxes with a class")
    boxes, scores, classes = _detections(outputs)
    order = np.argsort(-scores, axis=1, kind="stable")
    boxes = np.take_along_axis(boxes, order[..., None], axis=1)
    scores, classes = np.take_along_axis(scores, order, axis=1), np.take_along_axis(classes, order, axis=1)
    truth = answers[..., 4].astype(np.int64)
    classes = np.where(_places_in_class(classes) < _MAX_BOXES, classes, _LEFT_OUT)
    counts = np.zeros((len(truth), 1 + int(truth.max(initial=0))), np.int64)
    hits = np.zeros((*scores.shape, len(_OVERLAPS)), bool)
    for image, labels in enumerate(truth):
        there = labels >= 0
        np.add.at(counts[image], labels[there], 1)
        overlaps = _overlaps(boxes[image], answers[image][there, :4].astype(np.float64))
        # A box answers for true ones of its own class alone.
        overlaps[classes[image][:, None] != labels[there]] = -1
        hits[image] = _hits(overlaps)
    return scores, classes, hits, counts


def _places_in_class(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many boxes of the same class stand before each in its image, (N, D)."""
    places = np.zeros_like(classes)
    for image, labels in enumerate(classes):
        # Stable: boxes of a class keep their order, so the first of each group is its place 0.
        order = np.argsort(labels, kind="stable")
        grouped = labels[order]
        starts = np.searchsorted(grouped, grouped, side="left")
        places[image, order] = np.arange(len(labels)) - starts
    return places


def _detections(outputs: Arrays) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Boxes (N, D, 4), scores (N, D) and classes (N, D)."""
    boxed = [name for name, array in outputs.items() if array.ndim == 3 and array.shape[2] == 4]
    # Scores of four classes have the shape of boxes: then the name tells.
    boxed = [name for name in boxed if "box" in name.lower()] if len(boxed) > 1 else boxed
    if len(boxed) != 1:
        raise MisfitError("no output is boxes" if not boxed else f"outputs {', '.join(boxed)} may all be boxes")
    boxes = outputs[boxed[0]]
    others = {name: array for name, array in outputs.items() if name != boxed[0]}
    flat = {name: array for name, array in others.items() if array.shape == boxes.shape[:2]}
    named = [name for name in flat if any(word in name.lower() for word in ("label", "class"))]
    if len(flat) == 2 and len(named) == 1:
        (scored,) = flat.keys() - set(named)
        return boxes, flat[scored], np.rint(flat[named[0]]).astype(np.int64)
    wide = [array for array in others.values() if array.ndim == 3 and array.shape[:2] == boxes.shape[:2]]
    if len(wide) != 1 or flat:
        raise MisfitError("beside the boxes there are not scores with labels, or scores of each class")
    # Each box once, as its likeliest class.
    return boxes, wide[0].max(axis=2), wide[0].argmax(axis=2)


def _overlaps(boxes: Floats, truth: Floats) -> Floats:
    """Intersection over union, (D, G)."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(array[:, 2:] - array[:, :2], 0, None).prod(axis=1) for array in (boxes, truth)]
    union = areas[0][:, None] + areas[1][None, :] - both
    shares: Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return shares


def _hits(overlaps: Floats) -> NDArray[np.bool_]:
    """The likelier box chooses first, among the true boxes that are left the one that it overlaps most; (D, 10)."""
    hits = np.zeros((len(overlaps), len(_OVERLAPS)), bool)
    if not overlaps.size:
        return hits
    for at, least in enumerate(_OVERLAPS):
        free = np.ones(overlaps.shape[1], bool)
        for box in np.flatnonzero((overlaps >= least).any(axis=1)):
            unclaimed = np.where(free, overlaps[box], -1)
            # The last of equals, as pycocotools takes it.
            best = len(unclaimed) - 1 - int(unclaimed[::-1].argmax())
            if unclaimed[best] >= least:
                hits[box, at], free[best] = True, False
    return hits


def mean_average_precision(rows: Rows) -> float:
    """mAP@[.5:.95], 0-1; NaN where there is no true box."""
    scores, classes, hits, counts = rows
    total = counts.sum(axis=0)
    scores, classes, hits = scores.reshape(-1), classes.reshape(-1), hits.reshape(-1, len(_OVERLAPS))
    order = np.argsort(-scores, kind="stable")
    classes, hits = classes[order], hits[order]
    figures = []
    for label in np.flatnonzero(total):
        right = np.cumsum(hits[classes == label], axis=0)
        boxes = np.arange(1, len(right) + 1)[:, None]
        # From the right: precision at a recall is the best at this recall or a higher one.
        precision = np.maximum.accumulate((right / boxes)[::-1], axis=0)[::-1]
        recall = right / total[label]
        for at in range(len(_OVERLAPS)):
            places = np.searchsorted(recall[:, at], _RECALLS, side="left")
            figures.append(np.append(precision[:, at], 0.0)[np.minimum(places, len(right))].mean())
    return float(np.mean(figures)) if figures else float("nan")

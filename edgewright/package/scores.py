"""Which output of a model is its answer, and what its numbers are, as the device must know it."""

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import Dataset, Exported, ImportedModel, ModelTask
from edgewright.errors import InputError
from edgewright.validate.decision import decision_of
from edgewright_runtime.bundle.manifest import Scores

__all__ = ["scores_of"]

_SUM_TOLERANCE = 1e-3


def scores_of(model: ImportedModel, dataset: Dataset, exported: Exported) -> Scores:
    """The rule that the source model's own answers on the test rows follow, as in validation.

    Raises:
        InputError: no output explains the classes that the source predicts.
    """
    names = [spec.name for spec in exported.outputs]
    if model.task is not ModelTask.CLASSIFICATION:
        return Scores(names[0], "values")
    with np.load(dataset.artifact.path, allow_pickle=False) as stored:
        if "test.predicted" not in stored.files:
            raise InputError(f"dataset {dataset.artifact.path}: 'test.predicted', the source's classes, is missing")
        reference = {n: stored[f"test.reference.{n}"] for n in names if f"test.reference.{n}" in stored.files}
        predicted = stored["test.predicted"]
    # An output with one score for each label decides more often than any other.
    order = sorted(reference, key=lambda name: int(np.prod(reference[name].shape[1:])) != len(model.labels))
    rule = decision_of(reference, predicted, order)
    if rule.is_class:
        return Scores(rule.output, "classes")
    # One score a row: its threshold is 0.5 where it is a probability, 0 where it is a logit.
    if rule.threshold is not None:
        return Scores(rule.output, "logits" if rule.threshold == 0 else "probabilities")
    return Scores(rule.output, "probabilities" if _are_probabilities(reference[rule.output]) else "logits")


def _are_probabilities(scores: NDArray[np.float64]) -> bool:
    flat = scores.reshape(len(scores), -1)
    return bool(flat.min() >= 0 and np.allclose(flat.sum(axis=1), 1, atol=_SUM_TOLERANCE))

"""From a classifier's output tensors to classes: the rule that the source model itself follows, found on real rows."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import InputError

__all__ = ["Decision", "decision_of"]

# Rows in 100 where a rule may miss the source's own answer and still be its rule: ties fall either way.
_MIN_AGREEMENT = 0.98


class Decision(NamedTuple):
    """Which output decides, and how: the largest score, a threshold on one score, or the class itself."""

    output: str
    threshold: float | None
    is_class: bool

    def scores(self, outputs: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The deciding scores, (N, classes) float64; one score against a threshold becomes two columns."""
        raw = outputs[self.output]
        flat = raw.reshape(len(raw), -1)
        if self.threshold is None:
            return flat
        # score > threshold where score > 2 * threshold - score: the second column is then the larger.
        return np.concatenate([2 * self.threshold - flat, flat], axis=1)

    def classes(self, outputs: Mapping[str, NDArray[np.float64]]) -> NDArray[np.int64]:
        """Class indices, (N,)."""
        if self.is_class:
            return np.rint(outputs[self.output].reshape(-1)).astype(np.int64)
        indices: NDArray[np.int64] = self.scores(outputs).argmax(axis=1)
        return indices


def decision_of(
    reference: Mapping[str, NDArray[np.float64]], predicted: NDArray[np.int64], order: Sequence[str]
) -> Decision:
    """The rule that turns the source's outputs into the classes the source predicted.

    ``order`` lists the outputs, the one that usually decides first. A single score is a probability or a logit:
    both thresholds are tried.

    Raises:
        InputError: no output explains the predicted classes.
    """
    best, share = None, -1.0
    for rule in _candidates(reference, order):
        agreed = float((rule.classes(reference) == predicted).mean())
        # The first of equals stays: `order` and the two thresholds begin with the likelier.
        if agreed > share:
            best, share = rule, agreed
    if best is None or share < _MIN_AGREEMENT:
        shapes = {name: list(array.shape) for name, array in reference.items()}
        raise InputError(
            f"no output of the model explains the classes it predicts (best: {share:.1%} of rows); outputs {shapes}; "
            "allowed: scores (rows, classes), one score (rows, 1), or class indices (rows,)"
        )
    return best


def _candidates(reference: Mapping[str, NDArray[np.float64]], order: Sequence[str]) -> list[Decision]:
    rules = []
    for name in order:
        width = int(np.prod(reference[name].shape[1:]))
        if width > 1:
            rules.append(Decision(name, None, is_class=False))
        else:
            rules += [Decision(name, threshold, is_class=False) for threshold in (0.5, 0.0)]
    # A label output comes last: scores say more, since they show how near a decision was.
    rules += [Decision(n, None, is_class=True) for n in order if int(np.prod(reference[n].shape[1:])) == 1]
    return rules

"""Classifiers of two classes that decide at a threshold of their own: FixedThresholdClassifier and its tuned sibling.

A device names the class of the greatest score. So a score is how far the one class's probability, or decision, is
above the threshold, and that of the other class the same below it. Runs in a child process.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.intake.assembly import Assembly

__all__ = ["DecisionThreshold", "decides_at_threshold", "decision_threshold", "inner_classifier"]

_ROUNDING = 1e-6  # of the threshold: a probability that reaches it in float64 does so in float32, too


@dataclass(frozen=True)
class DecisionThreshold:
    """``value`` is compared with the score of the class at ``positive``, which is of ``method``."""

    value: float
    positive: int
    method: str
    label: str

    @property
    def note(self) -> str:
        """What becomes of the scores."""
        what = "decision" if self.method == "decision_function" else "probability"
        return (
            f"the model names '{self.label}' where its {what} reaches {self.value:g}; the scores are how far it is "
            "above that, and below"
        )

    def scores(self, given: Any) -> NDArray[np.float64]:
        """(N, 2), of what the method gives."""
        beyond = self._chosen(np.asarray(given, dtype=np.float64)) - self._reached
        return np.stack([-beyond, beyond] if self.positive else [beyond, -beyond], axis=1)

    def _chosen(self, given: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.method == "decision_function":
            return given if self.positive else -given
        return given[:, self.positive]

    @property
    def _reached(self) -> float:
        # Relative to the threshold; the inner one leaves a threshold of 0 some room, too.
        return self.value - _ROUNDING * max(abs(self.value), _ROUNDING)

    def written(self, assembly: Assembly, given: str) -> str:
        """The same in a graph, of (N, 1) decisions or (N, 2) probabilities."""
        if self.method == "decision_function":
            chosen = given if self.positive else assembly.call("Neg", given)
        else:
            chosen = assembly.call("Gather", given, assembly.constant([self.positive], np.int64), axis=1)
        beyond = assembly.call("Sub", chosen, assembly.constant(self._reached))
        below = assembly.call("Neg", beyond)
        return assembly.call("Concat", *((below, beyond) if self.positive else (beyond, below)), axis=1)


def decides_at_threshold(estimator: Any) -> bool:
    """Whether it is such a classifier itself."""
    return type(estimator).__name__ in {"FixedThresholdClassifier", "TunedThresholdClassifierCV"}


def inner_classifier(estimator: Any) -> Any:
    """The classifier whose scores are compared."""
    return getattr(estimator, "estimator_", estimator.estimator)


def decision_threshold(estimator: Any) -> DecisionThreshold | None:
    """The threshold by which a model, or the last step of one, decides; None where it has none."""
    if hasattr(estimator, "best_estimator_"):
        return decision_threshold(estimator.best_estimator_)
    if hasattr(estimator, "steps"):
        return decision_threshold(estimator.steps[-1][1])
    if not decides_at_threshold(estimator):
        return None
    # 'auto' takes the first that there is, as in scikit-learn.
    method = next(name for name in _methods(estimator.response_method) if hasattr(inner_classifier(estimator), name))
    tuned = hasattr(estimator, "best_threshold_")
    value = estimator.best_threshold_ if tuned else estimator.threshold
    # scikit-learn's own defaults: the middle of each scale.
    if value == "auto":
        value = 0.5 if method == "predict_proba" else 0.0
    label = estimator._curve_scorer._get_pos_label() if tuned else estimator.pos_label
    classes = list(estimator.classes_)
    # Without a name it is the second class.
    place = len(classes) - 1 if label is None else classes.index(label)
    return DecisionThreshold(float(value), place, method, str(classes[place]))


def _methods(asked: str) -> tuple[str, ...]:
    return ("predict_proba", "decision_function") if asked == "auto" else (asked,)

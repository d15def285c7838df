"""Edge first, cloud when unsure and reachable; the caller always learns who answered.

Without a cloud client the same class is the device-only pattern.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.health.confidence import calibrated, entropy_confidence, margin_confidence
from edgewright_runtime.predict.encoding import as_json, needed
from edgewright_runtime.predict.predictor import Prediction, Predictor, as_lists, check_finite

if TYPE_CHECKING:
    from edgewright_runtime.predict.cloud import CloudClient
    from edgewright_runtime.predict.protocol import CloudAnswer

__all__ = ["Answer", "Hybrid", "Policy"]

_MEASURES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "margin": margin_confidence,
    "entropy": entropy_confidence,
}


@dataclass(frozen=True)
class Policy:
    """When the cloud is asked, and how long it may take.

    ``threshold`` is of the confidence (0-1) by ``measure`` (margin or entropy), after calibration.
    """

    threshold: float = 0.5
    measure: str = "margin"
    latency_budget_ms: float = 250.0
    most_requests: int = 4


@dataclass(frozen=True)
class Answer:
    """One answer.

    ``source``: ``edge``, ``cloud``, ``edge_fallback`` (unsure, and the cloud did not answer in time), ``last_good``
    (the model failed; an earlier answer), ``default``, or ``cache`` (see `offline`). ``scores`` are calibrated
    probabilities by class, or the value of a regressor, whose confidence is None. Where the task is none, ``outputs``
    has every output by its name, as nested lists (None for NaN and infinity), and ``scores`` the numbers of the first.
    ``model`` names what answered. ``latency_ms`` is what the caller waited. ``model_ms``, ``model_label`` and
    ``model_probability`` are what the model on the device itself took and found, None where it did not run or failed:
    its health is judged by that, whatever the cloud said and the network took. ``release`` is that model's.
    """

    source: str
    label: str | None
    scores: tuple[float, ...]
    confidence: float | None
    latency_ms: float
    model: str
    model_ms: float | None = None
    model_label: str | None = None
    model_probability: float | None = None
    release: str | None = None
    outputs: Mapping[str, Any] | None = None


class Hybrid:
    """One model on the device, optionally a larger one in the cloud; safe from many threads."""

    def __init__(
        self,
        predictor: Predictor,
        model: str,
        *,
        cloud: CloudClient | None = None,
        policy: Policy | None = None,
        default: Answer | None = None,
    ) -> None:
        self._predictor = predictor
        self._model = model
        self._cloud = cloud
        self._policy = policy or Policy()
        if self._policy.measure not in _MEASURES:
            raise InputRejectedError(f"measure '{self._policy.measure}': allowed are {', '.join(_MEASURES)}")
        self._default = default
        self._last_good: Answer | None = None
        self._slots = threading.BoundedSemaphore(self._policy.most_requests)
        self._interpreter = threading.Lock()  # an inference runtime's interpreter serves one thread at a time

    def answer(self, raw: Any, feeds: Mapping[str, np.ndarray] | None = None) -> Answer:
        """Answer one raw row or array; who has its encoded ``feeds`` already gives them.

        Raises:
            InputRejectedError: the input does not fit; that is the caller's to mend, so nothing stands in for it.
            EdgeRuntimeError: the model failed, and there is neither an earlier answer nor a default.
        """
        began = time.perf_counter()
        try:
            answer = self._on_edge(self._predictor.encode(raw) if feeds is None else feeds)
        except InputRejectedError:
            raise
        except Exception as e:  # whatever the runtime raised, the application goes on
            return self._stand_in(e, began)
        # Regressors have no confidence, and are answered here.
        if self._cloud is not None and answer.confidence is not None and answer.confidence < self._policy.threshold:
            answer = self._asked(raw, answer, began)
        self._last_good = answer
        return replace(answer, latency_ms=_since(began))

    def _on_edge(self, feeds: Mapping[str, np.ndarray]) -> Answer:
        with self._interpreter:
            began = time.perf_counter()  # waiting for other threads is not the model's fault
            prediction = self._predictor.predict_encoded(feeds)
            model_ms = _since(began)
        if len(prediction.scores) != 1:
            raise InputRejectedError(f"one row at a time, {len(prediction.scores)} were given")
        return self._answer(prediction, model_ms)

    def _answer(self, prediction: Prediction, model_ms: float) -> Answer:
        if not prediction.labels:
            scores = _finite(prediction.scores.reshape(-1))
            outputs = None
            if self._predictor.manifest.task == "none":
                outputs = {name: as_lists(array[0]) for name, array in prediction.outputs.items()}
            return Answer("edge", None, scores, None, 0.0, self._model, model_ms, release=self._model, outputs=outputs)
        shown = calibrated(prediction.scores, self._predictor.manifest.calibration)
        confidence = float(_MEASURES[self._policy.measure](shown)[0])
        scores, label = _finite(shown[0]), prediction.labels[0]
        own = (model_ms, label, max(scores), self._model)
        return Answer("edge", label, scores, confidence, 0.0, self._model, *own)

    def _asked(self, raw: Any, edge: Answer, began: float) -> Answer:
        """The cloud's answer if it comes within the budget, else the edge's, marked so."""
        fallback = replace(edge, source="edge_fallback")
        cloud = self._cloud
        # No thread is worth starting while the breaker is open: the network is down, and the answer is known.
        if cloud is None or cloud.breaker.is_open() or not self._slots.acquire(blocking=False):
            return fallback
        # Filled by the thread, if it comes in time; a late answer is dropped, and its slot is free only then.
        box: list[CloudAnswer] = []

        def ask() -> None:
            try:
                row = as_json(needed(raw, self._predictor.manifest.preprocessing))
                box.append(cloud.ask(row, self._predictor.manifest.name, len(edge.scores)))
            except EdgeRuntimeError:
                return  # counted by the client's breaker; the caller has the edge's answer
            finally:
                self._slots.release()

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(max(self._policy.latency_budget_ms - _since(began), 0.0) / 1000)
        return self._from_cloud(box[0], edge) if box else fallback

    def _from_cloud(self, answer: CloudAnswer, edge: Answer) -> Answer:
        scores = np.asarray([answer.scores])
        labels = self._predictor.manifest.labels or tuple(str(i) for i in range(len(answer.scores)))
        confidence = float(_MEASURES[self._policy.measure](scores)[0])
        best = labels[int(scores.argmax())]
        own = (edge.model_ms, edge.model_label, edge.model_probability, edge.release)
        return Answer("cloud", best, answer.scores, confidence, 0.0, f"{answer.model}.{answer.version}", *own)

    def _stand_in(self, cause: Exception, began: float) -> Answer:
        for source, answer in (("last_good", self._last_good), ("default", self._default)):
            if answer is not None:
                # The model on the device did not run: its health is not judged by an answer of before.
                own = replace(answer, model_ms=None, model_label=None, model_probability=None)
                return replace(own, source=source, latency_ms=_since(began))
        raise EdgeRuntimeError(f"the model failed and there is no earlier or default answer: {cause}") from cause


def _finite(scores: np.ndarray) -> tuple[float, ...]:
    check_finite([scores])
    return tuple(float(score) for score in scores)


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000

"""Issues on the device, raised and cleared with hysteresis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edgewright_runtime.bundle.manifest import Calibration
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.health.confidence import population_stability_index, stability_index_by_chance, wilson_high
from edgewright_runtime.health.sensors import Reading
from edgewright_runtime.health.telemetry import TelemetryRecord

__all__ = ["OF_MACHINE", "Issue", "Watch"]

_MIN_PREDICTIONS = 50
OF_MACHINE = frozenset({"high_temperature", "low_battery"})
"""Kinds of issues that are the machine's, not the model's: doing less helps."""


@dataclass(frozen=True)
class Issue:
    """A limit that has been missed for several windows. ``severity`` is critical beyond half as far again; too low an
    accuracy always is.
    """

    kind: str
    severity: str
    value: float
    limit: float


@dataclass
class _State:
    over: int = 0
    under: int = 0
    raised: bool = False
    issue: Issue | None = None


class _Figure(NamedTuple):
    """A value, its limit, and whether below the limit is the bad side; ``best`` is the end of its scale."""

    kind: str
    value: float | None
    limit: float | None
    below: bool = False
    best: float = 0.0


@dataclass
class Watch:
    """Judge windows one after another by the plan's limits. An issue needs ``raise_after`` bad ones in a row to begin,
    and ``clear_after`` good ones to end, by ``clear_share`` of the limit: a figure at its limit does not flicker.
    """

    plan: Monitoring
    calibration: Calibration | None = None
    raise_after: int = 2
    clear_after: int = 3
    clear_share: float = 0.9
    windows: int = 0
    _states: dict[str, _State] = field(default_factory=dict)

    def judge(self, window: TelemetryRecord, reading: Reading) -> list[Issue]:
        """The issues that stand after this window and this look at the machine."""
        self.judge_model(window)
        return self.judge_machine(reading)

    def judge_model(self, window: TelemetryRecord) -> list[Issue]:
        """The issues that stand after this window of predictions."""
        self.windows += 1
        return self._weighed(self._figures(window))

    def judge_machine(self, reading: Reading) -> list[Issue]:
        """The issues that stand after this look at the sensors; a device may be hot while its model is idle."""
        cpu = reading.cpu_percent if self.plan.enable_performance_tracking else None
        # What hangs on the mains may use it, whatever its battery holds.
        battery = 100.0 if reading.on_mains else reading.battery_percent
        return self._weighed(
            [
                _Figure("high_cpu", cpu, self.plan.max_cpu_percent),
                _Figure("high_temperature", reading.temperature_c, self.plan.max_temperature_c),
                _Figure("low_battery", battery, self.plan.min_battery_percent, below=True, best=100.0),
            ]
        )

    def issues(self) -> list[Issue]:
        """The issues that stand."""
        return [state.issue for state in self._states.values() if state.raised and state.issue is not None]

    def take_over(self, before: Watch) -> None:
        """Go on with what another watch knew of the machine: heat does not end because a cooler model runs."""
        self._states.update(
            {kind: state for kind, state in before._states.items() if kind in {*OF_MACHINE, "high_cpu"}}
        )

    def _weighed(self, figures: Iterable[_Figure]) -> list[Issue]:
        for figure in figures:
            # Nothing measured, or no limit: what stood before goes on standing.
            if figure.value is None or figure.limit is None:
                continue
            state = self._states.setdefault(figure.kind, _State())
            self._count(state, figure, figure.value, figure.limit)
            severity = _severity(figure, figure.value, figure.limit)
            state.issue = Issue(figure.kind, severity, figure.value, figure.limit)
        return self.issues()

    def _figures(self, window: TelemetryRecord) -> Iterable[_Figure]:
        fast = self.plan.enable_performance_tracking
        enough = window.predictions >= _MIN_PREDICTIONS
        return [
            _Figure("high_latency", window.p95_ms if fast else None, self.plan.max_latency_p95_ms),
            _Figure("high_memory", window.memory_mb if fast else None, self.plan.max_memory_mb),
            _Figure("low_accuracy", self._accuracy(window), self.plan.min_accuracy, below=True, best=1.0),
            _Figure("high_errors", self._errors(window), self.plan.max_error_share),
            _Figure("confidence_drift", self._drift(window) if enough else None, self.plan.max_drift),
            _Figure(
                "rising_fallbacks",
                window.fallbacks / window.predictions if enough else None,
                self.plan.max_fallback_share,
            ),
        ]

    def _accuracy(self, window: TelemetryRecord) -> float | None:
        """The upper end of what the window's labels allow (95%): few of them condemn nothing."""
        if not window.labelled or not self.plan.enable_accuracy_monitoring:
            return None
        return wilson_high(window.correct / window.labelled, window.labelled)

    def _errors(self, window: TelemetryRecord) -> float | None:
        """The lower end of what the window's failures allow: ten of ten tell enough, one of ten does not."""
        if not window.predictions:
            return None
        return 1 - wilson_high(1 - window.errors / window.predictions, window.predictions)

    def _drift(self, window: TelemetryRecord) -> float | None:
        """How far confidence has moved beyond what chance explains in a window of this size."""
        if self.calibration is None or not self.plan.enable_accuracy_monitoring or not sum(window.confidence):
            return None
        index = population_stability_index(np.array(self.calibration.histogram), np.array(window.confidence))
        return max(index - stability_index_by_chance(self.calibration.rows, sum(window.confidence)), 0.0)

    def _count(self, state: _State, figure: _Figure, value: float, limit: float) -> None:
        bad = value < limit if figure.below else value > limit
        # To count as good again the figure must come back past the limit by a margin; an accuracy's is its interval.
        share = 1.0 if figure.kind == "low_accuracy" else self.clear_share
        # At most half of what is left of the scale: a margin at its end, or beyond, would keep an issue for ever.
        margin = min(limit / share, (limit + figure.best) / 2) if figure.below else limit * share
        past = value > margin if figure.below else value < margin
        good = not bad and (past or value == figure.best)
        state.over = state.over + 1 if bad else 0
        state.under = state.under + 1 if good else 0
        if state.over >= self.raise_after:
            state.raised = True
        # Between margin and limit neither counts: an issue stays as it is.
        elif state.under >= self.clear_after:
            state.raised = False


def _severity(figure: _Figure, value: float, limit: float) -> str:
    far = value < limit / 1.5 if figure.below else value > limit * 1.5
    return "critical" if far or figure.kind == "low_accuracy" else "warning"

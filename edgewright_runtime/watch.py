"""Issues on the device, raised and cleared with hysteresis, and what the device does about heat and a low battery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgewright_runtime.confidence import population_stability_index
from edgewright_runtime.manifest import Calibration, Monitoring
from edgewright_runtime.sensors import Reading
from edgewright_runtime.telemetry import TelemetryRecord

__all__ = ["Issue", "Level", "Limits", "Watch", "step_for"]

# 0.25 is the usual bound of a population that has moved; see `population_stability_index`.
_DRIFT_LIMIT = 0.25
_LEAST_PREDICTIONS = 50


@dataclass(frozen=True)
class Limits:
    """What the device's profile allows; None sets no limit. ``clear_share`` of a limit must be regained to clear it."""

    latency_p95_ms: float | None = None
    memory_mb: float | None = None
    cpu_percent: float | None = 90.0
    temperature_c: float | None = 80.0
    battery_percent: float | None = 15.0
    drift: float | None = _DRIFT_LIMIT
    fallback_share: float | None = 0.5
    raise_after: int = 2
    clear_after: int = 3
    clear_share: float = 0.9

    @staticmethod
    def of(plan: Monitoring) -> Limits:
        """The plan's limits, with the defaults for what it does not name."""
        return Limits(latency_p95_ms=plan.max_latency_p95_ms, memory_mb=plan.max_memory_mb)


@dataclass(frozen=True)
class Issue:
    """A limit that has been missed for several windows. ``severity`` is critical from half as far again."""

    kind: str
    severity: str
    value: float
    limit: float


@dataclass
class _State:
    over: int = 0
    under: int = 0
    raised: bool = False


@dataclass
class Watch:
    """Judges windows one after another; an issue needs ``raise_after`` bad ones in a row to begin, and
    ``clear_after`` good ones to end, so that a figure at its limit does not flicker.
    """

    limits: Limits
    plan: Monitoring
    calibration: Calibration | None = None
    _states: dict[str, _State] = field(default_factory=dict)

    def judge(self, window: TelemetryRecord, reading: Reading) -> list[Issue]:
        """The issues that stand after this window."""
        issues = []
        for kind, value, limit, below in self._figures(window, reading):
            if value is None or limit is None:
                continue
            state = self._states.setdefault(kind, _State())
            self._count(state, value, limit, below=below)
            if state.raised:
                issues.append(Issue(kind, _severity(value, limit, below=below), value, limit))
        return issues

    def _figures(
        self, window: TelemetryRecord, reading: Reading
    ) -> Sequence[tuple[str, float | None, float | None, bool]]:
        """Kind, value, limit, and whether below the limit is the bad side."""
        fast = self.plan.enable_performance_tracking
        enough = window.predictions >= _LEAST_PREDICTIONS
        fallbacks = window.fallbacks / window.predictions if enough else None
        battery = None if reading.on_mains else reading.battery_percent
        return [
            ("high_latency", window.latency.quantile(0.95) if fast else None, self.limits.latency_p95_ms, False),
            ("high_memory", window.memory_mb if fast else None, self.limits.memory_mb, False),
            ("high_cpu", reading.cpu_percent if fast else None, self.limits.cpu_percent, False),
            ("high_temperature", reading.temperature_c, self.limits.temperature_c, False),
            ("low_battery", battery, self.limits.battery_percent, True),
            ("confidence_drift", self._drift(window) if enough else None, self.limits.drift, False),
            ("rising_fallbacks", fallbacks, self.limits.fallback_share, False),
        ]

    def _drift(self, window: TelemetryRecord) -> float | None:
        if self.calibration is None or not self.plan.enable_accuracy_monitoring or not sum(window.confidence):
            return None
        return population_stability_index(np.array(self.calibration.histogram), np.array(window.confidence))

    def _count(self, state: _State, value: float, limit: float, *, below: bool) -> None:
        bad = value < limit if below else value > limit
        # To count as good again the figure must come back past the limit by a margin.
        margin = limit / self.limits.clear_share if below else limit * self.limits.clear_share
        good = value > margin if below else value < margin
        state.over = state.over + 1 if bad else 0
        state.under = state.under + 1 if good else 0
        if state.over >= self.limits.raise_after:
            state.raised = True
        elif state.under >= self.limits.clear_after:
            state.raised = False


def _severity(value: float, limit: float, *, below: bool) -> str:
    far = value < limit / 1.5 if below else value > limit * 1.5
    return "critical" if far else "warning"


@dataclass(frozen=True)
class Level:
    """How the device runs its model: with which limits it is chosen, in how many threads, how often."""

    name: str
    max_latency_ms: float | None = None
    max_memory_mb: float | None = None
    threads: int = 1
    interval_s: float = 0.0


def step_for(issues: Sequence[Issue], levels: Sequence[Level], now: int) -> int:
    """The level to run at: one step down for heat or a low battery, one back up when neither stands.

    ``levels`` begin with the normal one; ``now`` is the index of the present one.
    """
    strained = any(issue.kind in {"high_temperature", "low_battery"} for issue in issues)
    return min(now + 1, len(levels) - 1) if strained else max(now - 1, 0)

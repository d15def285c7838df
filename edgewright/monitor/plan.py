"""What a device records, and the limits its figures are held against."""

from dataclasses import field, replace
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgewright.measurement import ValidationReport
from edgewright.profile import StepDownPolicy
from edgewright_runtime.bundle.monitoring import STEPS, Monitoring, MonitoringLimits, StepDown
from edgewright_runtime.wire import rule

__all__ = ["MonitoringPlan"]

# A device's p95 wanders with its load and its clock; half as much again is a change, not weather.
_LATENCY_HEADROOM = 1.5
_MEMORY_HEADROOM = 1.25
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_CONFIG)
class MonitoringPlan(MonitoringLimits):
    """The plan in the manifest and the release. A limit that is not given is derived from validation's figures."""

    steps: tuple[StepDown, ...] | None = field(
        default=None,
        metadata=rule("What the device does under heat or with a low battery; its profile's if empty."),
    )

    def with_limits_of(self, report: ValidationReport, policy: StepDownPolicy | None = None) -> "MonitoringPlan":
        """The plan with every open limit filled: the budget's where there is one, else from what was measured; heat,
        battery and what is done then by the device profile's policy.
        """
        budget, candidate = report.budget, report.candidate
        # Below the interval that validation's own rows allow, the loss is real.
        accuracy = candidate.accuracy.low if candidate.accuracy and candidate.accuracy.metric == "accuracy" else None
        derived: dict[str, Any] = {
            "max_latency_p95_ms": budget.max_latency_ms
            or (candidate.latency.p95_ms * _LATENCY_HEADROOM if candidate.latency else None),
            "max_memory_mb": budget.max_memory_mb
            # What the model added: a device's record holds that too, not the whole process's.
            or (candidate.added_memory_mb * _MEMORY_HEADROOM if candidate.added_memory_mb else None),
            "min_accuracy": accuracy,
            "max_temperature_c": policy.max_temperature_c if policy else None,
            "min_battery_percent": policy.min_battery_percent if policy else None,
            "steps": policy.steps if policy else None,
        }
        # Only what is None: a limit of zero is a limit.
        return replace(self, **{name: value for name, value in derived.items() if getattr(self, name) is None})

    def on_device(self) -> Monitoring:
        """The plan as the manifest and the release hold it."""
        limits = {name: value for name, value in vars(self).items() if name != "steps"}
        # None: nobody chose, and the runtime's own steps hold; an empty tuple: nothing is done.
        return Monitoring(**limits, steps=STEPS if self.steps is None else self.steps)

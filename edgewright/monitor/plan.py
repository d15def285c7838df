"""What a device records, and the limits its figures are held against."""

from pydantic import Field

from edgewright.measurement import ValidationReport
from edgewright.profile import Policy, Step
from edgewright.value import Value
from edgewright_runtime.monitoring import Monitoring

__all__ = ["MonitoringPlan"]

# A device's p95 wanders with its load and its clock; half as much again is a change, not weather.
_LATENCY_HEADROOM = 1.5
_MEMORY_HEADROOM = 1.25


class MonitoringPlan(Value):
    """Travels in the manifest and the release. A limit that is not given is derived from validation's figures."""

    enable_performance_tracking: bool = Field(True, description="Record latency and memory on the device.")
    enable_accuracy_monitoring: bool = Field(True, description="Record right and wrong answers, if known.")
    window_s: int = Field(300, gt=0, description="Length of a window, seconds.")
    max_latency_p95_ms: float | None = Field(None, gt=0, description="Limit of a window's p95 latency, ms.")
    max_memory_mb: float | None = Field(None, gt=0, description="Limit of the memory the model adds, MB.")
    min_accuracy: float | None = Field(None, gt=0, le=1, description="Least share (0-1) of right answers.")

    max_error_share: float | None = Field(0.05, ge=0, le=1, description="Share (0-1) of predictions that may fail.")
    max_fallback_share: float | None = Field(0.5, ge=0, le=1, description="Share (0-1) that may miss the cloud.")
    max_drift: float | None = Field(0.25, gt=0, description="Limit of the confidence's PSI against validation.")
    max_cpu_percent: float | None = Field(90.0, gt=0, le=100, description="Limit of the device's processor load, %.")
    max_temperature_c: float | None = Field(None, gt=0, description="Limit of the hottest sensor, degrees Celsius.")
    min_battery_percent: float | None = Field(None, ge=0, le=100, description="Battery below which to do less, %.")
    min_confidence: float | None = Field(
        None, ge=0, le=1, description="Confidence (0-1) below which the cloud is asked."
    )
    steps: tuple[Step, ...] | None = Field(
        None, description="What the device does under heat or with a low battery; its profile's if empty."
    )

    def with_limits_of(self, report: ValidationReport, policy: Policy | None = None) -> "MonitoringPlan":
        """The plan with every open limit filled: the budget's where there is one, else from what was measured; heat,
        battery and what is done then by the device profile's policy.
        """
        budget, found = report.budget, report.candidate
        latency = budget.max_latency_ms or (found.latency.p95_ms * _LATENCY_HEADROOM if found.latency else None)
        memory = budget.max_memory_mb or (found.added_memory_mb * _MEMORY_HEADROOM if found.added_memory_mb else None)
        # Below the interval that validation's own rows allow, the loss is real.
        accuracy = found.accuracy.low if found.accuracy and found.accuracy.metric == "accuracy" else None
        return self.model_copy(
            update={
                "max_latency_p95_ms": self.max_latency_p95_ms or latency,
                "max_memory_mb": self.max_memory_mb or memory,
                "min_accuracy": self.min_accuracy or accuracy,
                "max_temperature_c": self.max_temperature_c or (policy.max_temperature_c if policy else None),
                "min_battery_percent": self.min_battery_percent or (policy.min_battery_percent if policy else None),
                "steps": self.steps if self.steps is not None or policy is None else policy.steps,
            }
        )

    def on_device(self) -> Monitoring:
        """The plan as the manifest and the release hold it."""
        settled = {name: value for name, value in self.model_dump().items() if name != "steps" or value is not None}
        return Monitoring(**settled)

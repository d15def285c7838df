"""The monitoring plan: what a device watches of its model. A manifest holds one; a release may bring another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional, get_args

from edgewright_runtime.wire import rule

__all__ = ["STEPS", "Monitoring", "MonitoringLimits", "StepDown"]

StepDown = Literal["fewer_threads", "cheaper_model", "longer_interval"]
STEPS: tuple[StepDown, ...] = get_args(StepDown)


@dataclass(frozen=True)
class MonitoringLimits:
    """What the device records, and what counts as an issue; None sets no limit.

    ``min_confidence`` is below which the cloud is asked, None leaves that to the device's own settings.
    """

    enable_performance_tracking: bool = field(default=True, metadata=rule("Record latency and memory on the device."))
    enable_accuracy_monitoring: bool = field(default=True, metadata=rule("Record right and wrong answers, if known."))
    window_s: int = field(default=300, metadata=rule("Length of a window, seconds.", ge=1, le=365 * 86_400))
    max_latency_p95_ms: Optional[float] = field(
        default=None, metadata=rule("Limit of a window's p95 latency, ms.", gt=0)
    )
    max_memory_mb: Optional[float] = field(default=None, metadata=rule("Limit of the memory the model adds, MB.", gt=0))
    min_accuracy: Optional[float] = field(
        default=None, metadata=rule("Least share (0-1) of right answers.", ge=0, le=1)
    )
    max_error_share: Optional[float] = field(
        default=0.05, metadata=rule("Share (0-1) of predictions that may fail.", ge=0, le=1)
    )
    max_fallback_share: Optional[float] = field(
        default=0.5, metadata=rule("Share (0-1) that may miss the cloud.", ge=0, le=1)
    )
    max_drift: Optional[float] = field(
        default=0.25, metadata=rule("Limit of the confidence's PSI against validation.", gt=0)
    )
    max_cpu_percent: Optional[float] = field(
        default=90.0, metadata=rule("Limit of the device's processor load, %.", gt=0, le=100)
    )
    max_temperature_c: Optional[float] = field(
        default=None, metadata=rule("Limit of the hottest sensor, degrees Celsius.", gt=0)
    )
    min_battery_percent: Optional[float] = field(
        default=None, metadata=rule("Battery below which to do less, %.", ge=0, le=100)
    )
    min_confidence: Optional[float] = field(
        default=None, metadata=rule("Confidence (0-1) below which the cloud is asked.", ge=0, le=1)
    )


@dataclass(frozen=True)
class Monitoring(MonitoringLimits):
    """The plan as it travels: the limits, and what the device does under strain.

    ``steps`` are taken one after another while it is too hot or the battery too low, and back.
    """

    steps: tuple[StepDown, ...] = field(default=STEPS, metadata=rule("What is done then.", max_length=len(STEPS)))

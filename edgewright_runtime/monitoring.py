"""The monitoring plan: what a device watches of its model. A manifest holds one; a release may bring another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgewright_runtime.strict_json import Fields

__all__ = ["STEPS", "Monitoring", "parse_monitoring"]

STEPS = ("fewer_threads", "cheaper_model", "longer_interval")


@dataclass(frozen=True)
class Monitoring:
    """What the device records, what counts as an issue (None sets no limit), and what it does under strain.

    ``min_confidence`` is below which the cloud is asked, None leaves that to the device's own settings. ``steps`` are
    taken one after another while it is too hot or the battery too low (see `STEPS`), and back.
    """

    enable_performance_tracking: bool = True
    enable_accuracy_monitoring: bool = True
    window_s: int = 300
    max_latency_p95_ms: float | None = None
    max_memory_mb: float | None = None
    min_accuracy: float | None = None
    max_error_share: float | None = 0.05
    max_fallback_share: float | None = 0.5
    max_drift: float | None = 0.25
    max_cpu_percent: float | None = 90.0
    max_temperature_c: float | None = None
    min_battery_percent: float | None = None
    min_confidence: float | None = None
    steps: tuple[str, ...] = STEPS


def parse_monitoring(f: Fields) -> Monitoring:
    """A monitoring plan, as a manifest or a release holds it."""
    found = Monitoring(
        enable_performance_tracking=f.flag("enable_performance_tracking"),
        enable_accuracy_monitoring=f.flag("enable_accuracy_monitoring"),
        window_s=f.whole("window_s", 1, 365 * 86_400),
        max_latency_p95_ms=f.maybe("max_latency_p95_ms", f.number),
        max_memory_mb=f.maybe("max_memory_mb", f.number),
        min_accuracy=f.maybe("min_accuracy", f.number),
        max_error_share=f.maybe("max_error_share", lambda key: f.number(key, 0, 1)),
        max_fallback_share=f.maybe("max_fallback_share", lambda key: f.number(key, 0, 1)),
        max_drift=f.maybe("max_drift", lambda key: f.number(key, 0)),
        max_cpu_percent=f.maybe("max_cpu_percent", lambda key: f.number(key, 0, 100)),
        max_temperature_c=f.maybe("max_temperature_c", f.number),
        min_battery_percent=f.maybe("min_battery_percent", lambda key: f.number(key, 0, 100)),
        min_confidence=f.maybe("min_confidence", lambda key: f.number(key, 0, 1)),
        steps=f.items("steps", _step, len(STEPS)),
    )
    f.done()
    return found


def _step(value: Any, where: str) -> str:
    return Fields({"step": value}, where).text("step", STEPS)

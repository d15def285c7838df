"""Monitoring: the plan that travels with a release, and the verdict on the telemetry that comes back."""

from edgewright.monitor.issues import Health, WindowIssue, check_health, find_issues
from edgewright.monitor.plan import MonitoringPlan
from edgewright.monitor.telemetry import Telemetry, Window, read_telemetry, summarize

__all__ = [
    "Health",
    "MonitoringPlan",
    "Telemetry",
    "Window",
    "WindowIssue",
    "check_health",
    "find_issues",
    "read_telemetry",
    "summarize",
]

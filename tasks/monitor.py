"""The health of a release in the field, as a task; never cached, since telemetry grows."""

from pathlib import Path

from edgewright.monitor import Health
from edgewright.release import ReleaseBaseline
from tasks.caching import step

__all__ = ["check_release"]


@step("Reading device telemetry")
def check_release(baseline: ReleaseBaseline, telemetry: Path, database: str | None = None) -> Health:
    """Windows and issues of what devices reported, against the figures the release was validated with."""
    from edgewright import monitor

    if database:
        from edgewright.cloud.database import read_telemetry

        fleet_telemetry = read_telemetry(database)
    else:
        # No folder yet: no device has sent anything, which is a state and no error.
        fleet_telemetry = monitor.read_telemetry(telemetry if telemetry.exists() else [])
    return monitor.check_health(fleet_telemetry, baseline.plan, baseline.report, baseline.release.line)

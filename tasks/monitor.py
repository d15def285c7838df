"""The health of a release in the field, as a task; never cached, since telemetry grows."""

from pathlib import Path

from edgewright.deploy import Release
from edgewright.monitor import Health
from tasks.caching import step

__all__ = ["check_release"]


@step("Reading device telemetry")
def check_release(release: Release, telemetry: Path) -> Health:
    """Windows and issues of what devices reported, against the figures the release was validated with."""
    from edgewright import deploy, monitor

    plan, report = deploy.promises_of(release)
    telemetry.mkdir(parents=True, exist_ok=True)
    return monitor.check_health(monitor.read_telemetry(telemetry), plan, report)

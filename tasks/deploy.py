"""Release and rollback, as tasks; never cached, since they act on the world."""

from edgewright.package import Bundle
from edgewright.release import Release
from tasks.caching import step

__all__ = ["publish", "roll_back"]


@step("Publishing the release")
def publish(bundle: Bundle, repository: str, channel: str, cohort_percent: int) -> Release:
    """Make the bundle the newest version of its line; the same bundle again changes nothing."""
    from edgewright import release

    return release.publish(bundle, repository, channel, cohort_percent=cohort_percent)


@step("Rolling back")
def roll_back(
    repository: str, channel: str, to_version: int | None, model: str | None, platform: str | None
) -> Release:
    """Release an older version's content as a new version; see `edgewright.release.rollback`."""
    from edgewright import release

    return release.rollback(repository, channel, to_version, model=model, platform=platform)

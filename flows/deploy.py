"""Stage four: a bundle becomes the newest version of its model, on its platform, in a channel; and back."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from edgewright.package import Bundle
from edgewright.profile import Platform
from edgewright.release import Release
from tasks.caching import run
from tasks.deploy import publish, roll_back

__all__ = ["deploy", "rollback"]


@flow(name="deploy", description="Publish a bundle to a release repository.", result_serializer="json")
def deploy(bundle: Bundle, repository: str, channel: str = "stable", cohort_percent: int = 100) -> Release:
    """Versions only grow; the line's index is replaced last, so a device sees the old release or the new."""
    return run(publish, bundle, repository, channel, cohort_percent)


@flow(name="rollback", description="Release an older version again, as a new version.", result_serializer="json")
def rollback(
    repository: str,
    channel: str = "stable",
    to_version: Annotated[int | None, Field(gt=0)] = None,
    model: str | None = None,
    platform: Platform | None = None,
) -> Release:
    """Devices take the old content as an update like any other.

    Args:
        repository: Release repository: a folder or any fsspec URL.
        channel: Channel to roll back.
        to_version: Version to return to; the one before the current if empty.
        model: Name of the model, where the channel has several.
        platform: Its platform, where the channel has several.
    """
    return run(roll_back, repository, channel, to_version, model, platform)

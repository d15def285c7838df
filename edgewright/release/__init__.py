"""Deployment: releases in a repository of static files that any web server can serve."""

from edgewright.release.baseline import ReleaseBaseline, current_baseline
from edgewright.release.release import Release, current_release, publish, rollback

__all__ = ["Release", "ReleaseBaseline", "current_baseline", "current_release", "publish", "rollback"]

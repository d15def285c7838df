"""Deployment: releases in a repository of static files that any web server can serve."""

from edgewright.deploy.baseline import ReleaseBaseline, current_baseline
from edgewright.deploy.release import Release, current_release, publish, rollback

__all__ = ["Release", "ReleaseBaseline", "current_baseline", "current_release", "publish", "rollback"]

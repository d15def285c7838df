"""Deployment: releases in a repository of static files that any web server can serve."""

from edgewright.deploy.promise import Promise, current_promise
from edgewright.deploy.release import Release, current_release, publish, rollback

__all__ = ["Promise", "Release", "current_promise", "current_release", "publish", "rollback"]

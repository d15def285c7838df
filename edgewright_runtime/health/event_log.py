"""What a device tells of itself: its windows, and issues when they begin, grow or end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgewright_runtime.health.outbox import Outbox, OutboxError
from edgewright_runtime.health.watch import Issue

__all__ = ["EventLog"]


class EventLog:
    """Events with their time, in the outbox; ``not_logged`` counts those that could not be kept."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float]) -> None:
        self._outbox = outbox
        self._clock = clock
        self._standing: dict[str, Issue] = {}
        self.not_logged = 0

    def add(self, content: dict[str, Any]) -> None:
        """Keep an event; a full disk is no error here."""
        try:
            self._outbox.add({"time_s": self._clock(), **content})
        except OutboxError:
            self.not_logged += 1

    def changes(self, issues: Sequence[Issue], release: str) -> None:
        """Tell of an issue when it begins, grows or ends: one that stands for a week is one record, not thousands."""
        standing = {issue.kind: issue for issue in issues}
        for kind, issue in standing.items():
            before = self._standing.get(kind)
            if before is None or before.severity != issue.severity:
                self._add_issue(issue, issue.severity, release)
        for kind, issue in self._standing.items():
            if kind not in standing:
                self._add_issue(issue, "cleared", release)
        self._standing = standing

    def _add_issue(self, issue: Issue, severity: str, release: str) -> None:
        fields = {"issue": issue.kind, "severity": severity, "value": issue.value, "limit": issue.limit}
        self.add({"kind": "issue", "release": release, **fields})

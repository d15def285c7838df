"""What a device tells of itself: its windows, what becomes of releases, and issues when they begin, grow or end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgewright_runtime.health.outbox import Outbox, OutboxError
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.health.watch import Issue

__all__ = ["Event", "EventLog"]


@dataclass(frozen=True)
class Event:
    """What happened, to which release or in which channel, and why."""

    kind: Literal["postponed", "refused", "rollback", "rollback_failed", "trial_not_counted"]
    release: str | None = None
    channel: str | None = None
    reason: str = ""


class EventLog:
    """Events with their time, in the outbox; ``not_logged`` counts those that could not be kept."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float]) -> None:
        self._outbox = outbox
        self._clock = clock
        self._standing: dict[str, Issue] = {}
        self.not_logged = 0

    def add(self, event: Event) -> None:
        """Keep an event."""
        self._keep({name: value for name, value in vars(event).items() if value is not None})

    def add_window(self, window: TelemetryRecord) -> None:
        """Keep what a window counted."""
        self._keep({"kind": "telemetry", **json.loads(window.to_line())})

    def _keep(self, content: Mapping[str, Any]) -> None:
        """A full disk is no error here."""
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
        self._keep({"kind": "issue", "release": release, **fields})

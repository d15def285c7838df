"""When a device asks for an update, and what becomes of one that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from edgewright_runtime.errors import EdgeRuntimeError, RollbackError, ShortageError, TransportError
from edgewright_runtime.health.event_log import Event, EventLog
from edgewright_runtime.predict.protocol import Offer
from edgewright_runtime.settings import Settings
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Outcome, Updater, followed_line

__all__ = ["UpdatePolling"]


class UpdatePolling:
    """What the repository offers, looked at when it is due; ``steady`` measures how long ago that was."""

    def __init__(
        self,
        installation: Installation,
        settings: Settings,
        log: EventLog,
        *,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._installation = installation
        self._settings = settings
        self._log = log
        self._clock = clock
        self._steady = steady
        self._looked_s = float("-inf")
        self._refused_for: str | None = None

    def are_due(self, offer: Offer | None) -> bool:
        """Whether the repository is worth a look now: not before `poll_s`, if the cloud offers nothing new."""
        if offer is not None and offer.line == self._line_id():
            known = offer.version <= self._installation.highest_version(offer.line)
            # What the cloud says is a hint: it spares polls, but never for longer than poll_s.
            if known and self._steady() < self._looked_s + self._settings.poll_s:
                return False
        self._looked_s = self._steady()
        return True

    def taken(self, errors: list[str]) -> Outcome | None:
        """Install what the line offers; None if it is not new. What fails is told and tried again later."""
        if self._settings.repository is None:
            return None
        try:
            outcome = self.updater(self._settings.repository).update(quota_bytes=self._settings.quota_bytes)
        except EdgeRuntimeError as e:
            errors.append(f"update: {e}")
            reason = str(e)[:500]
            # A network that is down, or a release that was given up before, is not an event worth a record.
            if not isinstance(e, (RollbackError, TransportError)) and reason != self._refused_for:
                self._refused_for = reason  # told once, not at every tick for as long as it lasts
                kind: Literal["postponed", "refused"] = "postponed" if isinstance(e, ShortageError) else "refused"
                self._log.add(Event(kind, channel=self._settings.channel, reason=reason))
            return None
        self._refused_for = None
        return outcome if outcome.status == "installed" else None

    def updater(self, repository: str) -> Updater:
        """Of this device's line."""
        s = self._settings
        return Updater(
            repository,
            s.channel,
            s.root,
            model=s.model,
            platform=s.platform,
            redirect_hosts=s.redirect_hosts,
            clock=self._clock,
        )

    def _line_id(self) -> str | None:
        """What this device follows; None where that must be asked of the repository."""
        s = self._settings
        line = followed_line(self._installation, s.channel, s.model, s.platform)
        return None if line is None else line.id

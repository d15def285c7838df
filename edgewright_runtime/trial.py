"""A new release on trial: whether it does well here, and the way back from one that does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from edgewright_runtime.errors import BackendUnavailableError, EdgeRuntimeError, IntegrityError
from edgewright_runtime.health.event_log import Event, EventLog
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.health.watch import Issue, Watch
from edgewright_runtime.settings import Settings
from edgewright_runtime.shortage import is_shortage
from edgewright_runtime.update.installation import Installation

__all__ = ["Trial"]

# Heat, an empty battery and a network that is down are not the model's fault.
_OWN_FAULTS = {"high_latency", "high_memory", "high_errors", "low_accuracy"}


class Trial:
    """What is known of the current release; ``drifted_before``: whether the one before drifted, None if unknown."""

    def __init__(
        self, installation: Installation, settings: Settings, log: EventLog, clock: Callable[[], float]
    ) -> None:
        self._installation = installation
        self._settings = settings
        self._log = log
        self._clock = clock
        self._healthy_windows = 0
        self.drifted_before: bool | None = None

    def is_of(self, release: str) -> bool:
        """Whether that release is on trial.

        A model that is not the current one, as under heat, says nothing of the one on trial.
        """
        return self._installation.trial_starts() is not None and self._installation.current_name() == release

    def condemns(self, issue: Issue, level: int) -> bool:
        """Whether an issue is the model's own fault, at this level of strain.

        Drift is only where it is grave, and the model before, on the same inputs, was seen to be without: else the
        world has changed. Latency is not while the device runs the model in fewer threads because of heat.
        """
        if issue.kind == "confidence_drift":
            return issue.severity == "critical" and self.drifted_before is False
        return issue.kind in _OWN_FAULTS and not (issue.kind == "high_latency" and level > 0)

    def count(self, window: TelemetryRecord, watch: Watch, level: int) -> None:
        """Windows in a row that speak for the model; one in which it never ran says nothing."""
        if any(issue.kind in _OWN_FAULTS or self.condemns(issue, level) for issue in watch.judge_model(window)):
            self._healthy_windows = 0
        elif window.latency.total or not watch.plan.enable_performance_tracking:
            self._healthy_windows += 1

    def begin_again(self) -> None:
        """Count anew, for another model."""
        self._healthy_windows = 0

    def end_where_passed(self, errors: list[str]) -> None:
        """End the trial after enough healthy windows."""
        if self._healthy_windows < self._settings.trial_windows:
            return
        try:
            self._installation.end_trial()
        except OSError as e:
            errors.append(f"the trial's end cannot be written: {e}")

    def leave_damaged_release(self) -> None:
        """Go to the newest whole release where the current one's own document is damaged."""
        name = self._installation.current_name()
        try:
            self._installation.current()
        except IntegrityError as e:
            # recover() moves the pointer: not while an update is at work.
            with self._installation.exclusive():
                self._installation.recover()
            self._log.add(Event("rollback", release=name, reason=str(e)))

    def count_start(self) -> None:
        """Count a start; a release that never lived long enough to be judged has ended its process each time."""
        try:
            starts = self._installation.count_trial_start()
        except OSError as e:  # a full disk must not keep the device from answering
            self._log.add(Event("trial_not_counted", reason=str(e)))
            return
        if starts is None or starts <= self._settings.most_trial_starts:
            return
        try:
            self.go_back(f"it ended its process {starts - 1} times before it could be judged")
        except (EdgeRuntimeError, OSError) as e:  # none before it, a full disk, another process at work
            self._log.add(Event("rollback_failed", reason=str(e)))

    def discount_start(self) -> None:
        """A start that ends for want of memory or descriptors says nothing of the release on trial."""
        with suppress(EdgeRuntimeError, OSError):
            self._installation.count_trial_start(-1)

    def go_back(self, reason: str, *, take_again: bool = False) -> None:
        """Make the release before the current one.

        Raises:
            RollbackError: there is none.
            EdgeRuntimeError: another process is at work.
            OSError: the disk is full.
        """
        # Asked before the pointer moves.
        given_up = self._installation.current()
        with self._installation.exclusive():
            self._installation.rollback(take_again=take_again)
        if given_up is not None:
            self._log.add(Event("rollback", release=given_up.name, reason=reason))

    def try_later(self, name: str | None, error: EdgeRuntimeError) -> None:
        """A release that was given up for want of memory or a runtime is not fetched again at the very next round."""
        if name is not None and (isinstance(error, BackendUnavailableError) or is_shortage(error)):
            with suppress(OSError):  # on a full disk: it is tried again sooner
                self._installation.postpone(name, str(error), self._clock())

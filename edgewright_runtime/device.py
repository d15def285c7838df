"""Everything an application on a device needs behind one object: answers now, and upkeep when it suits.

`Device.predict` answers and logs; `Device.tick` judges the last windows, steps down under strain, sends what waits,
takes updates, and goes back from one that does not do well. Neither raises because the network or the cloud fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from edgewright_runtime.active import Active, Around
from edgewright_runtime.backends import installed_runtimes
from edgewright_runtime.bundle.labels import is_label
from edgewright_runtime.errors import (
    BackendUnavailableError,
    EdgeRuntimeError,
    InputRejectedError,
    IntegrityError,
    RollbackError,
    ShortageError,
)
from edgewright_runtime.health.event_log import EventLog
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.health.sensors import Sensors
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.health.watch import Issue
from edgewright_runtime.polling import UpdatePolling
from edgewright_runtime.predict.hybrid import Answer
from edgewright_runtime.predict.offline import sync
from edgewright_runtime.predict.protocol import Offer
from edgewright_runtime.settings import Settings, Tick
from edgewright_runtime.shortage import is_fault, is_shortage
from edgewright_runtime.strain import Level, levels_of, step_for
from edgewright_runtime.trial import Trial
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.registry import Constraints, Model, Registry

__all__ = ["Device", "Settings", "Tick"]


class Device:
    """One device; `predict` is safe from many threads, `tick` is for one.

    Raises:
        EdgeRuntimeError: no model is installed, and none can be fetched.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        sensors: Sensors | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.clock = clock  # stamps what is told; it may jump, as on boards without a clock of their own
        self.steady = steady  # measures how long something lasts
        self.installation = Installation(settings.root)
        self.registry = Registry(self.installation)
        self.outbox = Outbox(settings.root / "outbox.db", settings.outbox_bytes, open_later=True)
        self.windows: list[TelemetryRecord] = []
        self._sensors = sensors or Sensors()
        self._levels: tuple[Level, ...] = settings.levels or (Level("normal"),)
        self._level = 0
        self._pointer: str | None = None
        self._swap = threading.Lock()
        self._retired: list[Active] = []
        self._log = EventLog(self.outbox, self._now)
        self._trial = Trial(self.installation, settings, self._log, self._now)
        self._updates = UpdatePolling(self.installation, settings, self._log, clock=self._now, steady=steady)
        # Before anything reads the current release: a damaged one would end the process at each start.
        self._trial.leave_damaged_release()
        if settings.answers:
            self._trial.count_start()
        if self.installation.current() is None:
            errors: list[str] = []
            if self._updates.taken(errors) is None:
                raise EdgeRuntimeError("; ".join(errors) or f"{settings.root}: no model is installed")
        try:
            self._active = self._opened_or_before()
        # A start that failed for want of memory must not count against the model.
        except (EdgeRuntimeError, OSError) as e:
            if settings.answers and is_shortage(e):
                self._trial.discount_start()
            raise

    def _now(self) -> float:
        return self.clock()  # whichever the application has set by now

    @property
    def not_logged(self) -> int:
        """Events of the device itself that could not be kept."""
        return self._log.not_logged

    def predict(self, raw: Any, *, user: str | None = None, truth: Any = None) -> Answer:
        """Answer one raw row or array, log it, and count it; ``truth`` is the right label, where it is known.

        Raises:
            InputRejectedError: the input does not fit the model's manifest.
        """
        # Taken once: `tick` may exchange the model while this one answers.
        active = self._active
        try:
            answer = active.answers.answer(raw, user=user)
        except InputRejectedError:
            raise
        except EdgeRuntimeError:
            active.monitor.record(None, error=True)
            raise
        active.monitor.record(
            answer.model_ms,
            answer.model_probability,
            None if truth is None or answer.model_label is None else is_label(truth, answer.model_label),
            fallback=answer.source == "edge_fallback",
            error=answer.source in {"last_good", "default"},
        )
        return answer

    def label(self, answer: Answer, truth: Any) -> bool:
        """Say what was right, once it is known; False where the answer tells nothing of the model that is current."""
        active = self._active
        if answer.model_label is None or answer.release != active.model.release:
            return False
        active.monitor.label(is_label(truth, answer.model_label))
        return True

    @property
    def interval_s(self) -> float:
        """The least time between two predictions at the present level; the application, or the agent, keeps to it."""
        return self._levels[self._level].interval_s

    def tick(self) -> Tick:
        """One round of upkeep: judge, step, send, update. What the system refuses is told, and tried again."""
        errors: list[str] = []
        try:
            return self._round(errors)
        except (EdgeRuntimeError, OSError) as e:
            level = self._levels[self._level].name
            return Tick(self._active.model.release, level, errors=(*errors, f"upkeep: {e}"))

    def _round(self, errors: list[str]) -> Tick:
        self._settle_retired()
        self._follow(errors)
        issues = self._judge()
        rolled_back = self._judge_trial(issues, errors)
        if rolled_back is None:
            self._step(issues, errors)
        # Sent before the update: the cloud's reply says whether the repository is worth a look.
        sent, offer = self._send(errors)
        outcome = self._updates.taken(errors) if rolled_back is None and self._updates.are_due(offer) else None
        if outcome is not None:
            rolled_back = self._taken(issues, errors)
        return Tick(
            release=self._active.model.release,
            level=self._levels[self._level].name,
            issues=tuple(issues),
            sent=sent,
            installed=outcome.installed.name if outcome and outcome.installed else None,
            downloaded_bytes=outcome.downloaded_bytes if outcome else 0,
            patched=outcome.patched if outcome else (),
            rolled_back=rolled_back,
            errors=tuple(errors),
        )

    def _follow(self, errors: list[str]) -> None:
        """Where another process has installed a release or gone back, let what is current now answer."""
        if self.installation.current_name() == self._pointer:
            return
        # Another model: its levels are others, and how the one before it drifted is not known.
        self._level, self._trial.drifted_before = 0, None
        try:
            self._replace()
        except EdgeRuntimeError as e:
            errors.append(f"what another process made current: {e}")  # tried again; until then the model before answers

    def _taken(self, issues: list[Issue], errors: list[str]) -> str | None:
        """Let the release that was just installed answer; its name, where it cannot be opened and was given up."""
        self._level = 0
        drifts = any(issue.kind == "confidence_drift" for issue in issues)
        self._trial.drifted_before = drifts if self._active.watch.windows else None
        try:
            self._replace()
        except EdgeRuntimeError as e:
            errors.append(f"update: {e}")
            given_up = self.installation.current_name()
            self._trial.go_back(str(e), take_again=not is_fault(e))
            self._trial.try_later(given_up, e)
            return given_up
        return None

    def flush(self) -> None:
        """End the running window, so that the next tick sees it."""
        self._active.monitor.flush()

    def close(self) -> None:
        """End the window and release everything."""
        self._settle_retired()
        self.flush()
        # Windows that no tick has judged are kept, not lost: the next process sends them.
        for window in self.windows:
            self._log.add_window(window)
        self._active.lease.close()
        self.outbox.close()

    def _judge(self) -> list[Issue]:
        # Taken one by one: other threads append while this runs.
        windows = [self.windows.pop(0) for _ in range(len(self.windows))]
        watch = self._active.watch
        for window in windows:
            if window.release == self._active.model.release:
                self._trial.count(window, watch, self._level)
            self._log.add_window(window)
        issues = watch.judge_machine(self._sensors.read())
        self._log.changes(issues, self._active.model.release)
        return issues

    def _judge_trial(self, issues: list[Issue], errors: list[str]) -> str | None:
        """End the trial of a new release, well or by going back; the name of the release that was given up."""
        given_up = self._active.model.release
        if not self._trial.is_of(given_up):
            return None
        condemning = next((issue for issue in issues if self._trial.condemns(issue, self._level)), None)
        if condemning is None:
            self._trial.end_where_passed(errors)
            return None
        try:
            self._trial.go_back(f"{condemning.kind}: {condemning.value:.4g}, limit {condemning.limit:.4g}")
            self._replace()
        except (EdgeRuntimeError, OSError) as e:
            errors.append(f"rollback: {e}")  # a model that does badly is better than none
            return None
        return given_up

    def _opened_or_before(self) -> Active:
        """The current model; where its files are damaged, or its runtime is gone, the one before it, or the same one
        fetched again.
        """
        try:
            return self._opened()
        except (IntegrityError, BackendUnavailableError, ShortageError) as e:
            given_up = self.installation.current_name()
            try:
                self._trial.go_back(str(e), take_again=True)
                self._trial.try_later(given_up, e)
            except RollbackError:
                if self.settings.repository is None or not isinstance(e, IntegrityError):
                    raise e from None
                self._updates.updater(self.settings.repository).update(repair=True)
            return self._opened()

    def _step(self, issues: list[Issue], errors: list[str]) -> None:
        """One level down or up; one that cannot be run (no such model is installed) is passed over."""
        before = self._level
        # step_for stays where it is at either end, which ends the loop.
        while (level := step_for(issues, self._levels, self._level)) != self._level:
            self._level = level
            try:
                self._replace()
            except EdgeRuntimeError as e:
                errors.append(f"level {self._levels[level].name}: {e}")
            else:
                return
        self._level = before

    def _send(self, errors: list[str]) -> tuple[int, Offer | None]:
        if self.settings.cloud is None:
            return 0, None
        not_logged = self.not_logged + self._active.answers.not_logged + self.outbox.lost
        status = {
            "release": self._active.model.release,
            "level": self._levels[self._level].name,
            "not_logged": not_logged,
            "latency_ms": self._active.monitor.long_span_ms(),
        }
        try:
            synced = sync(self.outbox, self.settings.cloud, {**status, **self.outbox.counters()})
        except EdgeRuntimeError as e:
            errors.append(f"sync: {e}")
            return 0, None
        return synced.records, synced.offer

    def _replace(self) -> None:
        """Put the model that belongs to the present level in place of the one that answers."""
        # Opened in full before the exchange: until then the model before it answers.
        fresh = self._opened()
        fresh.watch.take_over(self._active.watch)
        with self._swap:
            before, self._active = self._active, fresh
        self._trial.begin_again()
        self._retired.append(before)

    def _settle_retired(self) -> None:
        """Take the last figures of models that were replaced; an answer that is still under way tells its own later."""
        for retired in self._retired:
            retired.monitor.end()
            retired.lease.close()
        self._retired.clear()

    def _around(self) -> Around:
        take = self.windows.append
        shared = (self.settings, self.registry, self.installation, self.outbox)
        return Around(*shared, take=take, clock=self.clock, steady=self.steady)

    def _opened(self) -> Active:
        # Read before the model is opened: a change meanwhile is seen at the next round.
        pointer = self.installation.current_name()
        if self.settings.levels is None:
            current = self._current_model()
            plan = self.settings.monitoring or self.installation.installed(current.release).release.monitoring
            models = [
                model for model in self.registry.candidates() if model.fits(Constraints(runtimes=installed_runtimes()))
            ]
            self._levels = levels_of(plan.steps, current, models)
            # Another model may have fewer levels.
            self._level = min(self._level, len(self._levels) - 1)
        level = self._levels[self._level]
        try:
            opened = Active(self._around(), self._chosen(level), level)
        except (MemoryError, OSError) as e:
            if not is_shortage(e):
                raise
            raise ShortageError(f"too little to open the model with: {str(e) or 'out of memory'}") from e
        self._pointer = pointer
        return opened

    def _chosen(self, level: Level) -> Model:
        """The current release; under strain the best installed one within the level's limits."""
        if level.max_latency_ms is None and level.max_memory_mb is None:
            return self._current_model()
        return self.registry.best_model(
            Constraints(
                max_latency_ms=level.max_latency_ms,
                max_memory_mb=level.max_memory_mb,
                runtimes=installed_runtimes(),
            )
        )

    def _current_model(self) -> Model:
        current = self.installation.current()
        model = next((m for m in self.registry.models() if current is not None and m.release == current.name), None)
        if model is None:
            kind = EdgeRuntimeError if current is None else IntegrityError
            raise kind(f"{self.settings.root}: no usable model is installed")
        return model

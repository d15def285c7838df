"""What one pipeline run has done so far: the flow writes it; the result and the tracking record are read from it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from edgewright.errors import BudgetExceededError
from edgewright.measurement import LedgerEntry, ValidationReport
from edgewright.monitor import Health
from edgewright.package import Bundle
from edgewright.pipeline.record import RunRecord, TrackingRecord, VersionRecord
from edgewright.pipeline.request import DeploymentRequest
from edgewright.pipeline.result import DeploymentResult, Optimization, Step
from edgewright.pipeline.stages import StageName
from edgewright.progress import Announcement, progress
from edgewright.release import Release
from edgewright.report.figures import tracked
from edgewright.report.ledger import ledger_metrics

__all__ = ["EXPERIMENT", "Journal"]

EXPERIMENT = "edgewright"


class Journal:
    """Filled stage by stage; at any moment it knows how far the run came."""

    def __init__(self, deployment_id: str, request: DeploymentRequest) -> None:
        self.deployment_id = deployment_id
        self.request = request
        self.optimization: Optimization | None = None
        self.report: ValidationReport | None = None
        self.bundle: Bundle | None = None
        self.release: Release | None = None
        self.health: Health | None = None
        self.error: Exception | None = None
        self.notes: list[str] = []
        self.page: Path | None = None
        self._times: dict[StageName, tuple[int, int]] = {}
        self._began_ms = _now_ms()

    def hear(self, event: Announcement) -> None:
        """Keep what is to be told beside the outcome; a listener of `progress`."""
        # Several tasks may have the same to tell.
        if event.note and event.title not in self.notes:
            self.notes.append(event.title)

    @contextmanager
    def stage(self, name: StageName) -> Iterator[None]:
        """Time a stage; it counts as completed when the block ends without an error."""
        began = _now_ms()
        with progress.during(name, stage=True):
            yield
        # Not in a `finally`: a stage that raised is not completed.
        self._times[name] = (began, _now_ms())

    def result(self) -> DeploymentResult:
        """The outcome so far; failed where an error was noted."""
        error = self.error
        return DeploymentResult(
            status="failed" if error else "succeeded",
            deployment_id=self.deployment_id,
            completed_stages=tuple(self._times),
            error=_one_line(error) if error else None,
            over_budget=isinstance(error, BudgetExceededError),
            platform=self.request.device.platform,
            device=self.request.device.name,
            recipe=self.request.recipe.name,
            optimization=self.optimization,
            report=self.report,
            bundle=self.bundle,
            release=self.release,
            health=self.health,
            notes=tuple(self.notes),
            page=self.page,
            seconds=(_now_ms() - self._began_ms) / 1000,
        )

    def record(self, files: tuple[Path, ...]) -> TrackingRecord:
        """The run for experiment tracking: a parent, a child per stage, a grandchild per technique."""
        optimization = self.optimization
        name = optimization.model.name if optimization else self.request.model.stem
        bundle = (self.bundle.artifact.path,) if self.bundle else ()
        children = tuple(self._stage_record(stage, *times) for stage, times in self._times.items())
        run = RunRecord(
            name=f"{name} on {self.request.device.name}",
            started_ms=self._began_ms,
            ended_ms=_now_ms(),
            status="FAILED" if self.error else "FINISHED",
            params=self._params(),
            metrics=self._metrics(),
            tags={**self._tags(), **({"error": _one_line(self.error)} if self.error else {})},
            artifacts=(*bundle, *files),
            children=children,
        )
        return TrackingRecord(id=self.deployment_id, experiment=EXPERIMENT, run=run, version=self._version(name))

    def _params(self) -> dict[str, str]:
        budget = {name: limit for name, limit in asdict(self.request.budget).items() if limit is not None}
        return {
            **self.request.parameters.texts(),
            "recipe": self.request.recipe.name,
            "techniques": " > ".join(t.technique for t in self.request.recipe.techniques) or "none",
            **{name: f"{limit:g}" for name, limit in budget.items()},
        }

    def _tags(self) -> dict[str, str]:
        source = {"source_digest": self.optimization.model.source.digest} if self.optimization else {}
        return {
            "platform": self.request.device.platform.value,
            "device": self.request.device.name,
            "recipe": self.request.recipe.name,
            "deployment_id": self.deployment_id,
            **source,
        }

    def _metrics(self) -> dict[str, float]:
        if self.report is None:
            return {}
        before, after = self.report.baseline, self.report.candidate
        drop = self.report.accuracy_drop_percent
        return {
            **tracked(after),
            "size_ratio": after.artifact.size_bytes / before.artifact.size_bytes,
            **({"accuracy_drop": drop} if drop is not None else {}),
            **({"latency_ratio": self.report.latency_ratio} if self.report.latency_ratio else {}),
        }

    def _stage_record(self, stage: StageName, began_ms: int, ended_ms: int) -> RunRecord:
        metrics: Mapping[str, float] = {}
        children: tuple[RunRecord, ...] = ()
        if stage == "optimize" and self.optimization:
            baseline = self.optimization.baseline.artifact.size_bytes
            metrics = {"size_bytes": self.optimization.candidate.artifact.size_bytes, "baseline_size_bytes": baseline}
            # The first entry is the baseline's; each step that was exported has one after it, in order.
            entries = iter(self.optimization.ledger[1:])
            children = tuple(
                _step_record(s, next(entries, None) if s.exported else None, baseline, began_ms, ended_ms)
                for s in self.optimization.steps
            )
        elif stage == "validate":
            metrics = self._metrics()
        elif stage == "package" and self.bundle:
            metrics = {"bundle_bytes": self.bundle.artifact.size_bytes, "download_bytes": self.bundle.download_bytes}
        elif stage == "deploy" and self.release:
            metrics = {"version": self.release.version}
        return RunRecord(
            name=stage,
            started_ms=began_ms,
            ended_ms=ended_ms,
            metrics=dict(metrics),
            tags=self._tags(),
            children=children,
        )

    def _version(self, name: str) -> VersionRecord | None:
        if self.bundle is None:
            return None
        tags = {**self._tags(), "bundle_digest": self.bundle.artifact.digest}
        if self.release:
            tags |= {"release_version": str(self.release.version), "line": self.release.line}
        return VersionRecord(
            model_name=f"{name}-{self.request.device.platform.value}".replace(":", "-"),  # MLflow's names have none
            bundle=self.bundle.artifact.path,
            tags=tags,
            champion=self.release is not None,
        )


def _step_record(step: Step, entry: LedgerEntry | None, baseline_bytes: int, began_ms: int, ended_ms: int) -> RunRecord:
    size = step.exported.artifact.size_bytes if step.exported else None
    metrics = {"size_bytes": size, "size_ratio": size / baseline_bytes} if size is not None else {}
    return RunRecord(
        name=step.technique,
        started_ms=began_ms,
        ended_ms=ended_ms,
        params=step.parameters,
        metrics={**metrics, **(ledger_metrics(entry) if entry else {})},
        tags={"kept": str(step.kept).lower(), "reason": step.reason},
    )


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split()) or repr(error)
    # Our own messages say what to do; another's are half a sentence without the name of the error.
    from_us = type(error).__module__.startswith(("edgewright", "edgewright_runtime"))
    return message if from_us else f"{type(error).__name__}: {message}"


def _now_ms() -> int:
    return int(time.time() * 1000)

"""What is wrong with a model in the field, judged against what validation measured."""

from collections.abc import Iterable, Sequence
from typing import Literal

from edgewright.measurement import ValidationReport
from edgewright.monitor.plan import MonitoringPlan
from edgewright.monitor.telemetry import Telemetry, Window, summarize
from edgewright.value import Value
from edgewright_runtime.health.confidence import wilson_high

__all__ = ["Health", "WindowIssue", "check_health", "find_issues"]

# A p95 of fewer predictions is decided by a single one of them.
_MIN_PREDICTIONS = 20
_CRITICAL_RATIO = 1.5


class WindowIssue(Value):
    """One limit that a window misses; ``validated`` is the figure of the same kind at validation."""

    kind: Literal["high_latency", "high_memory", "high_errors", "low_accuracy"]
    severity: Literal["warning", "critical"]
    release: str
    window_start_s: int
    value: float
    limit: float
    validated: float | None
    message: str


class Health(Value):
    """What a monitoring run found."""

    records: int
    malformed: int
    windows: tuple[Window, ...]
    issues: tuple[WindowIssue, ...]
    notes: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether no limit was missed."""
        return not self.issues


def check_health(
    telemetry: Telemetry, plan: MonitoringPlan, report: ValidationReport, line: str | None = None
) -> Health:
    """Windows and issues of what was read; with ``line`` (its id) of the releases of that line only."""
    # A release is named LINE.VERSION, and a line's id has dots of its own.
    records = [r for r in telemetry.records if line is None or r.release.rpartition(".")[0] == line]
    windows = summarize(records, plan)
    notes = [f"{telemetry.malformed} lines are not records; the first: {telemetry.first_fault}"] * bool(
        telemetry.malformed
    )
    if not records:
        notes.append("no telemetry yet: nothing is known of this model in the field")
    return Health(
        records=len(records),
        malformed=telemetry.malformed,
        windows=windows,
        issues=find_issues(windows, plan, report),
        notes=tuple(notes),
    )


def find_issues(windows: Iterable[Window], plan: MonitoringPlan, report: ValidationReport) -> tuple[WindowIssue, ...]:
    """Every limit that a window misses; limits that the plan leaves open come from the report."""
    limits = plan.with_limits_of(report)
    issues = [issue for window in windows for issue in _issues_of(window, limits, report)]
    return tuple(issues)


def _issues_of(window: Window, limits: MonitoringPlan, report: ValidationReport) -> Sequence[WindowIssue]:
    issues: list[WindowIssue | None] = []
    validated = report.candidate
    if limits.enable_performance_tracking and window.predictions >= _MIN_PREDICTIONS:
        p95 = validated.latency.p95_ms if validated.latency else None
        latency = (window.latency_p95_ms, limits.max_latency_p95_ms, p95)
        memory = (window.memory_mb, limits.max_memory_mb, validated.added_memory_mb)
        issues += [_above("high_latency", window, latency, "ms p95"), _above("high_memory", window, memory, "MB")]
    # Whatever the plan tracks: failures are counted in every record.
    if window.predictions >= _MIN_PREDICTIONS:
        failed = (window.errors / window.predictions, limits.max_error_share, None)
        issues.append(_above("high_errors", window, failed, "of the predictions failed"))
    # No least number here: the interval widens by itself where labels are few.
    if limits.enable_accuracy_monitoring:
        issues.append(_too_wrong(window, limits.min_accuracy, report))
    return [issue for issue in issues if issue]


def _above(
    kind: Literal["high_latency", "high_memory", "high_errors"],
    window: Window,
    figures: tuple[float | None, float | None, float | None],
    unit: str,
) -> WindowIssue | None:
    """``figures``: the window's value, its limit, and validation's own."""
    value, limit, validated = figures
    if value is None or limit is None or value <= limit:
        return None
    over = f"{value:.4g} {unit} over {window.predictions} predictions, limit {limit:.4g}"
    measured = f"; validated: {validated:.4g}" if validated is not None else ""
    return WindowIssue(
        kind=kind,
        severity="critical" if value > limit * _CRITICAL_RATIO else "warning",
        release=window.release,
        window_start_s=window.start_s,
        value=value,
        limit=limit,
        validated=validated,
        message=f"{window.release}: {over}{measured}",
    )


def _too_wrong(window: Window, limit: float | None, report: ValidationReport) -> WindowIssue | None:
    """Only where the window's rows are enough to say so: the whole 95% interval lies below the limit."""
    if window.accuracy is None or limit is None or wilson_high(window.accuracy, window.labelled) >= limit:
        return None
    validated = report.candidate.accuracy
    return WindowIssue(
        kind="low_accuracy",
        severity="critical",
        release=window.release,
        window_start_s=window.start_s,
        value=window.accuracy,
        limit=limit,
        validated=validated.value if validated else None,
        message=f"{window.release}: {window.accuracy:.1%} of {window.labelled} labelled predictions right, "
        f"at least {limit:.1%} expected",
    )

"""Reads what devices wrote, and gathers it into windows."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgewright.errors import InputError
from edgewright.monitor.plan import MonitoringPlan
from edgewright.value import Value
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.health.sketch import QuantileSketch
from edgewright_runtime.health.telemetry import TelemetryRecord

__all__ = ["Telemetry", "Window", "read_telemetry", "summarize"]


class Window(Value):
    """All devices' predictions with one bundle in one span; None where the plan does not record it."""

    release: str
    bundle: str
    start_s: int
    seconds: int
    devices: int
    predictions: int
    fallbacks: int
    errors: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    memory_mb: float | None
    cpu_percent: float | None
    labelled: int
    accuracy: float | None
    confidence: float | None


class Telemetry:
    """Records in the order they were read, and how many lines were not records; ``first_fault`` says why."""

    def __init__(self, records: Sequence[TelemetryRecord], malformed: int, first_fault: str | None) -> None:
        self.records = tuple(records)
        self.malformed = malformed
        self.first_fault = first_fault


def read_telemetry(source: Path | Iterable[Path]) -> Telemetry:
    """Read JSON lines from a folder (``*.jsonl``, by name) or from files; a bad line is counted, never fatal.

    Raises:
        InputError: a file or the folder cannot be read.
    """
    files = _files(source) if isinstance(source, Path) else list(source)
    records, malformed, first_fault = [], 0, None
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as e:
            raise InputError(f"telemetry {file}: cannot be read: {e.strerror}") from e
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                records.append(TelemetryRecord.from_line(line))
            except IntegrityError as e:
                malformed += 1
                first_fault = first_fault or f"{file.name}, line {number}: {e}"
    return Telemetry(records, malformed, first_fault)


def summarize(records: Iterable[TelemetryRecord], plan: MonitoringPlan) -> tuple[Window, ...]:
    """Windows of the plan's length, by release and time. What the plan does not record is left out, even if sent."""
    groups: dict[tuple[int, str, str], list[TelemetryRecord]] = defaultdict(list)
    for record in records:
        # On a grid that all devices share: their own windows begin whenever they were started.
        start = math.floor(record.start_s / plan.window_s) * plan.window_s
        groups[start, record.release, record.bundle].append(record)
    return tuple(_window(*key, groups[key], plan) for key in sorted(groups))


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(source.glob("*.jsonl"))
    if not source.exists():
        raise InputError(f"telemetry {source}: no such file or folder")
    return [source]


def _window(start: int, release: str, bundle: str, records: Sequence[TelemetryRecord], plan: MonitoringPlan) -> Window:
    # Percentiles of percentiles mean nothing; sketches add up to that of all predictions.
    latency = QuantileSketch()
    if plan.enable_performance_tracking:
        for record in records:
            latency.merge(record.latency)
    memory = [r.memory_mb for r in records if r.memory_mb is not None and plan.enable_performance_tracking]
    cpu = [r.cpu_percent for r in records if r.cpu_percent is not None and plan.enable_performance_tracking]
    labelled = sum(r.labelled for r in records) if plan.enable_accuracy_monitoring else 0
    correct = sum(r.correct for r in records)
    return Window(
        release=release,
        bundle=bundle,
        start_s=start,
        seconds=plan.window_s,
        devices=len({r.device for r in records}),
        predictions=sum(r.predictions for r in records),
        fallbacks=sum(r.fallbacks for r in records),
        errors=sum(r.errors for r in records),
        latency_p50_ms=latency.quantile(0.5),
        latency_p95_ms=latency.quantile(0.95),
        latency_p99_ms=latency.quantile(0.99),
        # Of the device that takes most: the limit is one for each device.
        memory_mb=max(memory, default=None),
        cpu_percent=max(cpu, default=None),
        labelled=labelled,
        accuracy=correct / labelled if labelled else None,
        confidence=_mean_confidence(records) if plan.enable_accuracy_monitoring else None,
    )


def _mean_confidence(records: Sequence[TelemetryRecord]) -> float | None:
    """Mean of the bins' midpoints, by their counts."""
    weighted = total = 0.0
    for record in records:
        bins = len(record.confidence)
        for i, count in enumerate(record.confidence):
            # Each by its own number of bins, which a record's form only bounds.
            weighted += (i + 0.5) / bins * count
            total += count
    return weighted / total if total else None

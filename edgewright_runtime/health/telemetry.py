"""The line of JSON in which a device tells of one window of predictions; written there, read on the workstation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Optional

from edgewright_runtime.bundle.manifest import CONFIDENCE_BINS
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.health.sketch import QuantileSketch
from edgewright_runtime.strict_json import parse_object
from edgewright_runtime.wire import read, rule

__all__ = ["TelemetryRecord"]

_SCHEMA_VERSION = 2
_MAX_LINE_BYTES = 256 << 10
_SKETCH = rule(
    read_as=tuple[tuple[int, int], ...],
    max_length=5000,
    items=rule(items=(rule(ge=-1000, le=1000), rule(ge=1)), holds="a bucket and a count"),
    made_by=lambda counts: QuantileSketch(dict(counts)),
)


@dataclass(frozen=True)
class TelemetryRecord:
    """One window of one device.

    ``latency`` counts milliseconds per run of the model, mergeable over windows and devices; ``percentiles_ms`` are the
    exact p50, p95 and p99 of this window. ``cpu_percent`` is what the process took of one core. ``confidence`` holds
    the counts of the likeliest class's probability in ten equal bins of 0-1. Of ``labelled`` predictions the truth is
    known, ``correct`` of them were right; a truth may come windows after its prediction. At ``errors`` the model
    failed. Without performance tracking ``latency`` is empty, and memory, percentiles and CPU are None; without
    accuracy monitoring nothing is labelled.
    """

    device: str
    release: str
    bundle: str
    start_s: float = field(metadata=rule(ge=0, le=1e11))
    seconds: float = field(metadata=rule(ge=0, le=1e9))
    predictions: int
    latency: QuantileSketch = field(metadata=_SKETCH)
    memory_mb: Optional[float] = field(metadata=rule(ge=0))
    confidence: tuple[int, ...] = field(metadata=rule(max_length=CONFIDENCE_BINS))
    labelled: int
    correct: int
    fallbacks: int = 0
    errors: int = 0
    cpu_percent: Optional[float] = field(default=None, metadata=rule(ge=0))
    percentiles_ms: Optional[tuple[float, ...]] = field(
        default=None, metadata=rule(min_length=3, max_length=3, items=rule(ge=0))
    )

    @property
    def p95_ms(self) -> float | None:
        """p95 of this window: exact where it was recorded, else the sketch's."""
        return self.percentiles_ms[1] if self.percentiles_ms else self.latency.quantile(0.95)

    def to_line(self) -> str:
        """One line, without the line break."""
        latency = sorted(self.latency.counts.items())
        content = {"schema_version": _SCHEMA_VERSION, **vars(self), "latency": latency}
        return json.dumps(content, allow_nan=False, separators=(",", ":"))

    @staticmethod
    def from_line(line: bytes) -> TelemetryRecord:
        """Read one line.

        Raises:
            IntegrityError: not a valid record.
        """
        if len(line) > _MAX_LINE_BYTES:
            raise IntegrityError(f"telemetry: a line of {len(line)} bytes, at most {_MAX_LINE_BYTES} are read")
        f = parse_object(line, "telemetry")
        f.whole("schema_version", _SCHEMA_VERSION, _SCHEMA_VERSION)
        return read(TelemetryRecord, f.rest(), "telemetry")

    def check(self, what: str) -> None:
        """Raise `IntegrityError` where the counts contradict each other."""
        if self.correct > self.labelled:
            raise IntegrityError(f"{what}: more correct than labelled")

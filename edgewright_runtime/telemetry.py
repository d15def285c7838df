"""The line of JSON in which a device tells of one window of predictions; written there, read on the workstation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.manifest import CONFIDENCE_BINS
from edgewright_runtime.sketch import QuantileSketch
from edgewright_runtime.strict_json import Fields, parse_object

__all__ = ["TelemetryRecord"]

_SCHEMA_VERSION = 2
_MAX_LINE_BYTES = 256 << 10


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
    start_s: float
    seconds: float
    predictions: int
    latency: QuantileSketch
    memory_mb: float | None
    confidence: tuple[int, ...]
    labelled: int
    correct: int
    fallbacks: int = 0
    errors: int = 0
    cpu_percent: float | None = None
    percentiles_ms: tuple[float, ...] | None = None

    @property
    def p95_ms(self) -> float | None:
        """p95 of this window: exact where it was recorded, else the sketch's."""
        return self.percentiles_ms[1] if self.percentiles_ms else self.latency.quantile(0.95)

    def to_line(self) -> str:
        """One line, without the line break."""
        content = {
            "schema_version": _SCHEMA_VERSION,
            "device": self.device,
            "release": self.release,
            "bundle": self.bundle,
            "start_s": self.start_s,
            "seconds": self.seconds,
            "predictions": self.predictions,
            "latency": sorted(self.latency.counts.items()),
            "memory_mb": self.memory_mb,
            "confidence": list(self.confidence),
            "labelled": self.labelled,
            "correct": self.correct,
            "fallbacks": self.fallbacks,
            "errors": self.errors,
            "cpu_percent": self.cpu_percent,
            "percentiles_ms": self.percentiles_ms,
        }
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
        record = TelemetryRecord(
            device=f.text("device"),
            release=f.text("release"),
            bundle=f.text("bundle"),
            start_s=f.number("start_s", 0, 1e11),
            seconds=f.number("seconds", 0, 1e9),
            predictions=f.whole("predictions"),
            latency=QuantileSketch(dict(f.items("latency", _bucket, 5000))),
            memory_mb=f.maybe("memory_mb", lambda key: f.number(key, 0)),
            confidence=f.items("confidence", _count, CONFIDENCE_BINS),
            labelled=f.whole("labelled"),
            correct=f.whole("correct"),
            fallbacks=f.whole("fallbacks"),
            errors=f.whole("errors"),
            cpu_percent=f.maybe("cpu_percent", lambda key: f.number(key, 0)),
            percentiles_ms=f.maybe("percentiles_ms", lambda key: f.items(key, _milliseconds, 3)),
        )
        f.done()
        if record.correct > record.labelled:
            raise IntegrityError("telemetry: more correct than labelled")
        if record.percentiles_ms is not None and len(record.percentiles_ms) != 3:
            raise IntegrityError(f"telemetry: {len(record.percentiles_ms)} percentiles, three are p50, p95 and p99")
        return record


def _bucket(value: Any, where: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise IntegrityError(f"{where}: expected a pair of bucket and count")
    f = Fields({"bucket": value[0], "count": value[1]}, where)
    return f.whole("bucket", -1000, 1000), f.whole("count", 1)


def _count(value: Any, where: str) -> int:
    return Fields({"count": value}, where).whole("count")


def _milliseconds(value: Any, where: str) -> float:
    return Fields({"ms": value}, where).number("ms", 0)

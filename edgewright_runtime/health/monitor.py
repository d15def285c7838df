"""What the device tells of its predictions: one record a window, in a file or handed to the agent.

Recording a prediction costs microseconds; a window is handed over when the next begins.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgewright_runtime.bundle.manifest import CONFIDENCE_BINS
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.health.sketch import QuantileSketch
from edgewright_runtime.health.telemetry import TelemetryRecord

__all__ = ["Monitor", "TelemetryFile", "resident_memory_mb"]

_MAX_FILE_BYTES = 8 << 20  # telemetry must not fill the disk of a device that is offline for months
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Latencies kept for a window's exact percentiles (320 kB at most); a window with more has the sketch's, within 1%.
_MAX_EXACT = 10_000
_PERCENTILES = (0.5, 0.95, 0.99)


def resident_memory_mb() -> float | None:
    """Memory of this process in MB (2^20 bytes); None where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES / 2**20
    except OSError:
        return None


class TelemetryFile:
    """Appends windows to ``folder/RELEASE.jsonl``; one beyond its bound, or that cannot be written, is counted only."""

    def __init__(self, folder: Path, release: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{release}.jsonl"
        self.dropped_windows = 0

    def __call__(self, window: TelemetryRecord) -> None:
        """Write one window."""
        line = window.to_line().encode() + b"\n"
        try:
            is_written = self._append(line)
        except OSError:  # a full disk must not keep the model from answering
            is_written = False
        self.dropped_windows += not is_written

    def _append(self, line: bytes) -> bool:
        if self._path.exists() and not self._path.is_file():  # a pipe would be waited for
            return False
        size = self._path.stat().st_size if self._path.exists() else 0
        if size + len(line) > _MAX_FILE_BYTES:
            return False
        with self._path.open("ab") as stream:
            stream.write(line)
        return True


class Monitor:
    """Count predictions and hand a `TelemetryRecord` a window to ``sink``; safe from many threads.

    ``memory_before_mb`` is the process's memory before the model was loaded: the record holds what was added.
    """

    def __init__(
        self,
        sink: Callable[[TelemetryRecord], None],
        plan: Monitoring,
        *,
        device: str,
        release: str,
        bundle: str,
        memory_before_mb: float | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._plan = plan
        self._device, self._release, self._bundle = device, release, bundle
        self._memory_before_mb = memory_before_mb
        # A board without a clock of its own starts decades ago and jumps: no window may end or last by that.
        self._clock, self._steady = clock, steady
        self._lock = threading.Lock()
        self._ended = False
        self._span = QuantileSketch()
        self._begin()

    def record(
        self,
        latency_ms: float | None,
        confidence: float | None = None,
        correct: bool | None = None,
        *,
        fallback: bool = False,
        error: bool = False,
    ) -> None:
        """Count one prediction; ``correct`` is None where the truth is not known, ``error`` is a failure of the model.

        ``latency_ms`` is None where the model did not run: an answer from the cache says nothing of its speed.
        """
        with self._lock:
            # No timer: an idle device ends no windows, and a window that holds nothing tells nothing.
            if self._steady() >= self._since_s + self._plan.window_s:
                self._write()
            self._predictions += 1
            self._fallbacks += fallback
            self._errors += error
            if latency_ms is not None and self._plan.enable_performance_tracking:
                self._latency.add(latency_ms)
                # One above the bound is kept as well: it marks a window that was too long, see `_percentiles_ms`.
                if len(self._exact_ms) <= _MAX_EXACT:
                    self._exact_ms.append(latency_ms)
            if confidence is not None:
                self._confidence[min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)] += 1
            if correct is not None and self._plan.enable_accuracy_monitoring:
                self._labelled += 1
                self._correct += correct
            # Nobody begins another window here: this one holds the answer that was under way, and goes out at once.
            if self._ended:
                self._write()

    def label(self, correct: bool) -> None:
        """Count the truth of an earlier prediction, which is known by now."""
        with self._lock:
            if self._plan.enable_accuracy_monitoring:
                self._labelled += 1
                self._correct += correct

    def flush(self) -> None:
        """End the window now and hand it over, if it holds anything."""
        with self._lock:
            self._write()

    def end(self) -> None:
        """End the last window; an answer that was under way then is handed over as soon as it is counted."""
        with self._lock:
            self._ended = True
            self._write()

    def long_span_ms(self) -> dict[str, float | None]:
        """p50, p95 and p99 of all windows that have ended, within 1%: a sketch keeps any span in bounded memory."""
        with self._lock:
            return {f"p{round(100 * q)}": self._span.quantile(q) for q in _PERCENTILES}

    def _begin(self) -> None:
        self._start_s = self._clock()
        self._predictions = self._labelled = self._correct = self._fallbacks = self._errors = 0
        self._latency = QuantileSketch()
        self._exact_ms: list[float] = []
        self._confidence = [0] * CONFIDENCE_BINS
        self._used_s, self._since_s = time.process_time(), self._steady()

    def _write(self) -> None:
        if self._predictions or self._labelled:
            self._span.merge(self._latency)
            self._sink(self._window())
        self._begin()

    def _window(self) -> TelemetryRecord:
        tracked = self._plan.enable_performance_tracking
        return TelemetryRecord(
            device=self._device,
            release=self._release,
            bundle=self._bundle,
            start_s=self._start_s,
            seconds=self._steady() - self._since_s,
            predictions=self._predictions,
            latency=self._latency,
            memory_mb=self._memory_mb() if tracked else None,
            confidence=tuple(self._confidence),
            labelled=self._labelled,
            correct=self._correct,
            fallbacks=self._fallbacks,
            errors=self._errors,
            cpu_percent=self._cpu_percent() if tracked else None,
            percentiles_ms=self._percentiles_ms(),
        )

    def _percentiles_ms(self) -> tuple[float, ...] | None:
        """By nearest rank; None for a window that is empty or too long to be kept."""
        if not 0 < len(self._exact_ms) <= _MAX_EXACT:
            return None
        ordered = sorted(self._exact_ms)
        return tuple(ordered[math.ceil(q * len(ordered)) - 1] for q in _PERCENTILES)

    def _cpu_percent(self) -> float | None:
        seconds = self._steady() - self._since_s
        return 100 * (time.process_time() - self._used_s) / seconds if seconds > 0 else None

    def _memory_mb(self) -> float | None:
        now = resident_memory_mb()
        if now is None or self._memory_before_mb is None:
            return None
        return max(now - self._memory_before_mb, 0.0)

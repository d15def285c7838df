import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.health.monitor import Monitor, TelemetryFile, resident_memory_mb
from edgewright_runtime.health.sketch import QuantileSketch
from edgewright_runtime.health.telemetry import TelemetryRecord


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def monitor(folder: Path, clock: Clock, steady: Callable[[], float] | None = None, **plan: object) -> Monitor:
    return Monitor(
        TelemetryFile(folder, "stable.1"),
        Monitoring(window_s=60, **plan),
        device="d",
        release="stable.1",
        bundle="b",
        memory_before_mb=0,
        clock=clock,
        steady=clock if steady is None else steady,
    )


def lines(folder: Path) -> list[TelemetryRecord]:
    return [TelemetryRecord.from_line(line) for line in (folder / "stable.1.jsonl").read_bytes().splitlines()]


def test_a_window_is_written_when_the_next_begins(tmp_path: Path) -> None:
    clock = Clock()
    watched = monitor(tmp_path, clock)
    for latency in (1.0, 2.0, 3.0):
        watched.record(latency, confidence=0.95, correct=latency > 1, fallback=latency > 2)
    clock.now += 61
    watched.record(9.0)
    watched.flush()
    watched.flush()

    first, second = lines(tmp_path)
    assert (first.predictions, first.labelled, first.correct, first.fallbacks) == (3, 3, 2, 1)
    assert first.confidence[9] == 3
    assert first.latency.quantile(0.5) == pytest.approx(2.0, rel=0.011)
    assert first.memory_mb == pytest.approx(resident_memory_mb(), rel=0.5)
    assert (second.predictions, second.start_s) == (1, 1_000_061.0)


def test_clock_that_jumps_neither_ends_a_window_nor_stretches_it(tmp_path: Path) -> None:
    clock, steady = Clock(), Clock()
    clock.now = 0.0  # 1970: a board before it has heard of the time
    watched = monitor(tmp_path, clock, steady)
    watched.record(1.0)
    clock.now, steady.now = 1.8e9, steady.now + 10
    watched.record(2.0)
    clock.now, steady.now = 1.7e9, steady.now + 51
    watched.record(3.0)
    watched.flush()

    first, second = lines(tmp_path)
    assert (first.start_s, first.seconds, first.predictions) == (0.0, 61.0, 2)
    assert (second.start_s, second.predictions) == (1.7e9, 1)


def test_what_the_plan_switches_off_is_not_recorded(tmp_path: Path) -> None:
    watched = monitor(tmp_path, Clock(), enable_performance_tracking=False, enable_accuracy_monitoring=False)
    watched.record(5.0, correct=True)
    watched.flush()

    (record,) = lines(tmp_path)
    assert (record.predictions, record.labelled, record.memory_mb, record.latency.total) == (1, 0, None, 0)


def test_percentiles_of_a_window_are_exact_and_those_of_a_long_span_within_one_percent(tmp_path: Path) -> None:
    watched = monitor(tmp_path, Clock())
    values = np.random.default_rng(0).lognormal(0, 1, size=(3, 500))
    for window in values:
        for latency in window:
            watched.record(float(latency))
        watched.flush()

    for window, line in zip(values, lines(tmp_path), strict=True):
        assert line.percentiles_ms == tuple(np.quantile(window, [0.5, 0.95, 0.99], method="inverted_cdf"))
        assert line.p95_ms == line.percentiles_ms[1]
    exact = np.quantile(values, [0.5, 0.95, 0.99], method="lower")
    assert list(watched.long_span_ms().values()) == pytest.approx(exact, rel=0.011)


def test_window_too_long_to_be_kept_has_the_sketch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright_runtime.health.monitor._MAX_EXACT", 10)
    watched = monitor(tmp_path, Clock())
    for latency in range(1, 101):
        watched.record(float(latency))
    watched.flush()

    (record,) = lines(tmp_path)
    assert record.percentiles_ms is None
    assert record.p95_ms == pytest.approx(95, rel=0.02)


def test_window_tells_processor_time_and_failures(tmp_path: Path) -> None:
    watched = monitor(tmp_path, Clock(), time.monotonic)
    began = time.process_time()
    while time.process_time() < began + 0.05:  # busy
        watched.record(None, error=True)
    watched.flush()

    (record,) = lines(tmp_path)
    assert 1 < record.cpu_percent < 101
    assert record.errors == record.predictions
    assert (record.latency.total, record.percentiles_ms) == (0, None)


def test_a_full_file_drops_windows_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright_runtime.health.monitor._MAX_FILE_BYTES", 600)
    file = TelemetryFile(tmp_path, "stable.1")
    watched = Monitor(file, Monitoring(), device="d", release="stable.1", bundle="b")
    for _ in range(5):
        watched.record(1.0)
        watched.flush()

    assert len(lines(tmp_path)) + file.dropped_windows == 5
    assert file.dropped_windows > 0


def test_eight_threads_lose_nothing(tmp_path: Path) -> None:
    clock = Clock()
    watched = monitor(tmp_path, clock)

    def work() -> None:
        for _ in range(1000):
            watched.record(1.0)
            clock.now += 0.1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watched.flush()

    assert sum(record.predictions for record in lines(tmp_path)) == 8000
    assert sum(record.latency.total for record in lines(tmp_path)) == 8000


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200), st.floats(0, 1))
def test_sketch_quantiles_are_within_one_percent(values: list[float], q: float) -> None:
    whole, left, right = QuantileSketch(), QuantileSketch(), QuantileSketch()
    for i, value in enumerate(values):
        whole.add(value)
        (left if i % 2 else right).add(value)
    left.merge(right)

    exact = float(np.quantile(values, q, method="lower"))
    assert whole.quantile(q) == pytest.approx(exact, rel=0.0101)
    assert left.quantile(q) == whole.quantile(q)


def test_sketch_of_nothing_knows_nothing() -> None:
    assert QuantileSketch().quantile(0.5) is None

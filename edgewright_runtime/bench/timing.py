"""Latency: warm, in interleaved blocks over several loads; and under sustained load, for what heat does."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgewright_runtime.backends import Backend
from edgewright_runtime.bench.answer import LatencySeries, SustainedFigures, SustainedWindow, WarmFigures
from edgewright_runtime.bench.spec import BenchModel, BenchSpec, load_model, single_rows
from edgewright_runtime.health.energy import EnergyMeter
from edgewright_runtime.health.sensors import Sensors

__all__ = ["Opener", "sustained", "time_block", "warm"]

_ROWS = 64  # different rows that the timing cycles through
_BLOCK_NS = 4_000_000  # long enough that the switch from one model to the next does not show
_MAX_BLOCK_RUNS = 200
_WARM_UP_NS = 100_000_000  # stop warming up after this, stable or not
_STABLE = 0.05  # two successive warm-up blocks within 5% of each other
_WINDOWS = 10
_LONGEST_S = 60.0  # a model of seconds never comes to its runs: what there is by then is told with its count
_KEPT_SAMPLES = 1000  # single latencies kept for the distribution plot

_Feeds = Sequence[dict[str, Any]]
# Loads a model, and gives some of the rows (at most as many as the last argument) as the feeds of one inference each.
Opener = Callable[[BenchModel, BenchSpec, Mapping[str, np.ndarray], int], tuple[Backend, _Feeds]]


def _open(model: BenchModel, spec: BenchSpec, rows: Mapping[str, np.ndarray], limit: int) -> tuple[Backend, _Feeds]:
    backend = load_model(model, spec)
    return backend, single_rows(backend, rows, limit)


def warm(spec: BenchSpec, rows: Mapping[str, np.ndarray], open_model: Opener = _open) -> WarmFigures:
    """Epochs of interleaved blocks; each epoch loads every model anew, in a random order.

    Where a model's weights happen to lie in memory moves its latency by some percent for as long as it is loaded.
    One load of each would take that for a difference between the models; several loads show it as the noise it is.
    """
    chance = random.Random(spec.seed)  # noqa: S311 - an order is no secret
    epochs: list[list[list[list[int]]]] = []
    runtime, began = ("", ""), time.perf_counter()
    # A collection in the middle of a block would count as the model's.
    gc.collect()
    gc.disable()
    try:
        while _another(spec, epochs, time.perf_counter() - began):
            loaded = _load_all(spec, rows, chance, open_model)
            runtime = (loaded[0][0].name, loaded[0][0].version)
            epochs.append(_interleaved(spec, loaded, chance))
            # Before the next epoch loads: two copies of every model might not fit.
            del loaded
            gc.collect()
    finally:
        gc.enable()
    return WarmFigures(*runtime, tuple(_series([epoch[i] for epoch in epochs]) for i in range(len(spec.models))))


def _another(spec: BenchSpec, epochs: Sequence[Sequence[Sequence[Sequence[int]]]], elapsed: float) -> bool:
    """Whether the runs, the seconds or the precision that were asked for are still missing."""
    if not epochs:
        return True
    if elapsed >= max(_LONGEST_S, spec.min_seconds, spec.max_seconds):
        return False
    runs = min(sum(len(block) for epoch in epochs for block in epoch[i]) for i in range(len(spec.models)))
    missing = runs < spec.min_runs or elapsed < spec.min_seconds
    return missing or (elapsed < spec.max_seconds and not _precise(spec, epochs))


def _precise(spec: BenchSpec, epochs: Sequence[Sequence[Sequence[Sequence[int]]]]) -> bool:
    """Whether every ratio to the first model is known well enough; a busy machine needs more epochs for it.

    What ends the measurement is how precise it is, never what it found, so no verdict is favoured.
    """
    if len(epochs) < max(2, spec.epochs):
        return False
    # (epochs, models): a ratio is a difference of logarithms.
    logs = np.log([[_low(np.asarray([_low(np.asarray(b)) for b in blocks])) for blocks in epoch] for epoch in epochs])
    ratios = logs[:, 1:] - logs[:, :1]
    if not ratios.size:
        return True
    return bool((ratios.std(axis=0, ddof=1) / np.sqrt(len(epochs))).max() <= spec.precision)


def _low(taken: np.ndarray) -> float:
    """The lower quartile: what disturbs a machine only ever adds time, so the median moves with it and this less."""
    return float(np.percentile(taken, 25))


_Loaded = tuple[Backend, _Feeds, int]


def _load_all(
    spec: BenchSpec, rows: Mapping[str, np.ndarray], chance: random.Random, open_model: Opener
) -> list[_Loaded]:
    """Every model with its feeds and the number of runs that fill a block, warmed up."""
    order = list(range(len(spec.models)))
    chance.shuffle(order)
    loaded: dict[int, _Loaded] = {}
    for i in order:
        backend, feeds = open_model(spec.models[i], spec, rows, _ROWS)
        loaded[i] = (backend, feeds, _warm_up(backend, feeds))
    return [loaded[i] for i in range(len(spec.models))]


def time_block(backend: Backend, feeds: _Feeds, start: int, runs: int) -> list[int]:
    """Nanoseconds of each of ``runs`` inferences, cycling through ``feeds`` from ``start`` on."""
    # Local names: looking them up would be timed with a model of microseconds.
    clock, infer, count = time.perf_counter_ns, backend.infer, len(feeds)
    # Checks the shapes, and brings this model's weights back into the caches; not timed.
    backend.run(feeds[start % count])
    taken = []
    for i in range(start, start + runs):
        feed = feeds[i % count]
        began = clock()
        infer(feed)
        taken.append(clock() - began)
    return taken


def _warm_up(backend: Backend, feeds: _Feeds) -> int:
    """Run until two blocks agree; the number of runs that fill a block."""
    began = time.perf_counter_ns()
    runs, previous = 1, 0.0
    while True:
        median = float(np.median(time_block(backend, feeds, 0, runs)))
        stable = previous > 0 and abs(median - previous) <= _STABLE * previous
        if (stable and runs > 1) or time.perf_counter_ns() - began > _WARM_UP_NS:
            return int(min(_MAX_BLOCK_RUNS, max(1, _BLOCK_NS // max(median, 1.0))))
        previous, runs = median, min(runs * 2, _MAX_BLOCK_RUNS)


def _interleaved(spec: BenchSpec, loaded: Sequence[_Loaded], chance: random.Random) -> list[list[list[int]]]:
    """One epoch's latencies, ns: ``[model][block][run]``; each round runs every model once, in a new random order."""
    order = list(range(len(loaded)))
    blocks: list[list[list[int]]] = [[] for _ in loaded]
    began = time.perf_counter()
    while True:
        chance.shuffle(order)
        rounds = len(blocks[0])
        for i in order:
            backend, feeds, runs = loaded[i]
            blocks[i].append(time_block(backend, feeds, rounds * runs, runs))
        rounds, seconds = rounds + 1, time.perf_counter() - began
        least_runs = rounds * min(runs for _, _, runs in loaded)
        if rounds * spec.epochs < spec.min_rounds or least_runs * spec.epochs < spec.min_runs:
            continue
        # The seconds are shared out among the epochs, as the rounds and the runs are.
        if seconds * spec.epochs >= spec.min_seconds:
            return blocks


def _series(epochs: Sequence[Sequence[Sequence[int]]]) -> LatencySeries:
    every = np.concatenate([np.asarray(block, np.float64) for blocks in epochs for block in blocks]) / 1e6
    p50, p90, p95, p99 = np.percentile(every, [50, 90, 95, 99])
    # Every n-th: a distribution plot needs the whole span, not its beginning.
    step = max(1, len(every) // _KEPT_SAMPLES)
    return LatencySeries(
        p50_ms=float(p50),
        p90_ms=float(p90),
        p95_ms=float(p95),
        p99_ms=float(p99),
        mean_ms=float(every.mean()),
        min_ms=float(every.min()),
        runs=len(every),
        block_ms=tuple(tuple(_low(np.asarray(block)) / 1e6 for block in blocks) for blocks in epochs),
        sample_ms=tuple(round(float(v), 6) for v in every[::step][:_KEPT_SAMPLES]),
    )


def sustained(spec: BenchSpec, rows: Mapping[str, np.ndarray], open_model: Opener = _open) -> SustainedFigures:
    """``min_seconds`` of sustained inference; lower-quartile latency and sensors at the end of each window.

    ``joules`` of one inference where the machine has a meter, the whole machine's use divided by the runs.
    """
    backend, feeds = open_model(spec.models[0], spec, rows, _ROWS)
    runs = _warm_up(backend, feeds)
    windows, look, meter, total = [], Sensors(), EnergyMeter(), 0
    for _ in range(_WINDOWS):
        ends, taken = time.perf_counter() + spec.min_seconds / _WINDOWS, list[int]()
        # At least one block: a model of seconds outlasts its window.
        while not taken or time.perf_counter() < ends:
            taken += time_block(backend, feeds, len(taken), runs)
            total += runs + 1  # a block's first run is not timed
        windows.append(SustainedWindow(_low(np.asarray(taken)) / 1e6, len(taken), look.read().temperature_c))
        meter.sample()
    joules = meter.joules()
    energy = (None, None) if joules is None else (joules / total, meter.source)
    return SustainedFigures(backend.name, backend.version, tuple(windows), *energy)

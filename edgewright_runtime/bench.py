"""Measure a model on the machine it runs on: the same code on a workstation, under an emulator and on a board.

``python -m edgewright_runtime.bench --spec FILE --out FILE``; both files are JSON. Three tasks:

- ``outputs``  run every row and keep the outputs: accuracy and parity are judged from them elsewhere;
- ``cold``     one model in a fresh process: load, first inference, memory;
- ``warm``     several models loaded at once, timed in interleaved blocks, so that what disturbs the machine
  disturbs all of them alike;
- ``sustained`` one model without pause, in windows: what heat does to it;
- ``operators`` one model: where its time goes, by the runtime's own profiler;
- ``marked``   one model, a mark before and after each inference: under the emulator, its plugin counts the
  instructions between two marks.

The answer holds what was measured, or ``{"error": {"type", "message"}}``. A crash leaves no answer at all.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from edgewright_runtime.backends import Backend, load, run_rows
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.manifest import TensorSpec
from edgewright_runtime.operator_times import operator_times

__all__ = ["MARK", "BenchModel", "BenchSpec", "bench", "main", "read_arrays", "spec_json", "write_arrays"]

_CHUNK_ROWS = 256  # rows at once where the batch axis is free: bounded memory, whatever the test split's length
_BLOCK_NS = 4_000_000  # long enough that the switch from one model to the next does not show
_MAX_BLOCK_RUNS = 200
_WARM_UP_NS = 100_000_000  # stop warming up after this, stable or not
_STABLE = 0.05  # two successive warm-up blocks within 5% of each other
_PREFIX = "a."
_MARKED_WARM_UP = 3
_SHOWN_OPERATORS = 10
_WINDOWS = 10
MARK = 0x45444745  # "EDGE": above the largest process id that Linux hands out (2^22)
_KEPT_SAMPLES = 1000  # single latencies kept for the distribution plot


@dataclass(frozen=True)
class BenchModel:
    """One model file and the names its tensors go by in the rows, in the file's order."""

    path: str
    format: str
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchSpec:
    """What to measure. ``rows`` is the file of `write_arrays`: (N, ...) by input name, in real units, never quantized.

    ``warm`` takes at least ``min_runs`` runs of each model, ``min_rounds`` rounds and ``min_seconds``, spread over
    ``epochs`` loads, and further epochs until the standard error of every ratio to the first model is below
    ``precision``; after ``max_seconds`` no further epoch begins.
    ``limit_mb`` bounds what the process may allocate beyond what it holds before the model is loaded, ``cores`` the
    processors it may use.
    """

    task: str
    models: tuple[BenchModel, ...]
    rows: str
    threads: int = 1
    outputs: str = ""
    min_runs: int = 60
    min_rounds: int = 40
    min_seconds: float = 1.0
    epochs: int = 8
    max_seconds: float = 5.0
    precision: float = 0.006
    limit_mb: float | None = None
    cores: int | None = None
    seed: int = 0


def bench(spec: BenchSpec) -> dict[str, Any]:
    """Carry out one task.

    Raises:
        EdgeRuntimeError: a file that its runtime refuses, rows that do not fit, outputs that are not numbers.
    """
    tasks = {
        "outputs": _outputs,
        "cold": _cold,
        "warm": _warm,
        "marked": _marked,
        "operators": _operators,
        "sustained": _sustained,
    }
    if spec.task not in tasks:
        raise InputRejectedError(f"unknown bench task '{spec.task}'; known: {', '.join(tasks)}")
    _limit_cores(spec)
    rows = read_arrays(Path(spec.rows))
    before = sensors()
    answer = tasks[spec.task](spec, rows)
    return {**answer, "machine": _machine(), "before": before, "after": sensors()}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by name as an ``.npz``, whatever the names: a prefix keeps them apart from `numpy.savez`'s parameters."""
    prefixed: Any = {_PREFIX + name: array for name, array in arrays.items()}
    np.savez(path, **prefixed)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return {name[len(_PREFIX) :]: archive[name] for name in archive.files}


def _load(model: BenchModel, threads: int) -> Backend:
    return load(
        model.path,
        model.format,
        threads,
        input_names=model.input_names or None,
        output_names=model.output_names or None,
    )


def _stored(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """Real values as the tensor stores them: quantized where it has a scale, else cast."""
    dtype = np.dtype(spec.dtype)
    if spec.scale is None or dtype.kind not in "iu":
        return np.ascontiguousarray(array.astype(dtype))
    bounds = np.iinfo(dtype)
    steps = np.round(array / spec.scale) + (spec.zero_point or 0)
    return np.ascontiguousarray(np.clip(steps, bounds.min, bounds.max).astype(dtype))


def _real(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """What a stored tensor means, float64."""
    values = array.astype(np.float64)
    if spec.scale is None or np.dtype(spec.dtype).kind not in "iu":
        return values
    real: np.ndarray = spec.scale * (values - (spec.zero_point or 0))
    return real


def _feeds(backend: Backend, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    missing = [spec.name for spec in backend.inputs if spec.name not in rows]
    if missing:
        raise InputRejectedError(f"the model's inputs {missing} are not among the rows' arrays {sorted(rows)}")
    return {spec.name: _stored(spec, rows[spec.name]) for spec in backend.inputs}


def _outputs(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    _limit_memory(spec)
    backend = _load(spec.models[0], spec.threads)
    count = _write_outputs(backend, rows, Path(spec.outputs))
    return {"runtime": backend.name, "version": backend.version, "rows": count}


def _write_outputs(backend: Backend, rows: Mapping[str, np.ndarray], path: Path) -> int:
    feeds = _feeds(backend, rows)
    count = len(next(iter(feeds.values())))
    parts = [
        run_rows(backend, {name: array[start : start + _CHUNK_ROWS] for name, array in feeds.items()})
        for start in range(0, count, _CHUNK_ROWS)
    ]
    collected = {}
    for tensor in backend.outputs:
        answers = np.concatenate([part[tensor.name] for part in parts])
        if len(answers) != count:
            raise InputRejectedError(
                f"output '{tensor.name}' has {len(answers)} rows for {count} inputs: its first axis is not the batch"
            )
        collected[tensor.name] = _real(tensor, answers)
    write_arrays(path, collected)
    return count


def _cold(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    model = spec.models[0]
    _import_runtime(model.format)
    imported_peak = _peak_memory_mb()
    _reset_peak()
    before = _resident_mb()
    _limit_memory(spec)
    began = time.perf_counter_ns()
    backend = _load(model, spec.threads)
    loaded = time.perf_counter_ns()
    after_load = _resident_mb()
    row = _single_rows(backend, rows, 1)[0]
    ready = time.perf_counter_ns()
    backend.run(row)
    done = time.perf_counter_ns()
    after_first = _resident_mb()
    for _ in range(10):  # some runtimes allocate their scratch memory after the first inference only
        backend.run(row)
    peak = _peak_memory_mb()
    return {
        "runtime": backend.name,
        "version": backend.version,
        "load_ms": (loaded - began) / 1e6,
        "first_ms": (done - ready) / 1e6,
        "peak_memory_mb": None if peak is None else max(peak, imported_peak or 0.0),
        "memory_steps": [
            [moment, held]
            for moment, held in (
                ("runtime imported", before),
                ("model loaded", after_load),
                ("first inference", after_first),
                ("ten more", _resident_mb()),
            )
            if held is not None
        ],
        "added_memory_mb": None if peak is None or before is None else max(peak - before, 0.0),
    }


def _warm(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Epochs of interleaved blocks; each epoch loads every model anew, in a random order.

    Where a model's weights happen to lie in memory moves its latency by some percent for as long as it is loaded.
    One load of each would take that for a difference between the models; several loads show it as the noise it is.
    """
    chance = random.Random(spec.seed)  # noqa: S311 - an order is no secret
    epochs: list[list[list[list[int]]]] = []
    runtime, began = ("", ""), time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while not epochs or (time.perf_counter() - began < spec.max_seconds and not _precise(spec, epochs)):
            loaded = _load_all(spec, rows, chance)
            runtime = (loaded[0][0].name, loaded[0][0].version)
            epochs.append(_interleaved(spec, loaded, chance))
            del loaded
            gc.collect()
    finally:
        gc.enable()
    series = [_series([epoch[i] for epoch in epochs]) for i in range(len(spec.models))]
    return {"runtime": runtime[0], "version": runtime[1], "series": series}


def _precise(spec: BenchSpec, epochs: Sequence[Sequence[Sequence[Sequence[int]]]]) -> bool:
    """Whether every ratio to the first model is known well enough; a busy machine needs more epochs for it.

    What ends the measurement is how precise it is, never what it found, so no verdict is favoured.
    """
    if len(epochs) < max(2, spec.epochs):
        return False
    logs = np.log([[_low(np.asarray([_low(np.asarray(b)) for b in blocks])) for blocks in epoch] for epoch in epochs])
    ratios = logs[:, 1:] - logs[:, :1]
    if not ratios.size:
        return True
    return bool((ratios.std(axis=0, ddof=1) / np.sqrt(len(epochs))).max() <= spec.precision)


def _low(taken: np.ndarray) -> float:
    """The lower quartile: what disturbs a machine only ever adds time, so the median moves with it and this less."""
    return float(np.percentile(taken, 25))


_Loaded = tuple[Backend, list[dict[str, np.ndarray]], int]


def _load_all(spec: BenchSpec, rows: Mapping[str, np.ndarray], chance: random.Random) -> list[_Loaded]:
    """Every model with its feeds and the number of runs that fill a block, warmed up."""
    order = list(range(len(spec.models)))
    chance.shuffle(order)
    loaded: dict[int, _Loaded] = {}
    for i in order:
        backend = _load(spec.models[i], spec.threads)
        feeds = _single_rows(backend, rows, 64)
        loaded[i] = (backend, feeds, _warm_up(backend, feeds))
    return [loaded[i] for i in range(len(spec.models))]


def _single_rows(backend: Backend, rows: Mapping[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    """Up to ``limit`` different rows, each as the feeds of one inference at the file's own batch (1 where free)."""
    batch = max(1, *(spec.shape[0] if spec.shape else 1 for spec in backend.inputs))
    few = {name: np.asarray(array[: limit * batch]) for name, array in rows.items()}
    stored = _feeds(backend, few)
    count = len(next(iter(stored.values()))) // batch
    if count == 0:
        raise InputRejectedError(f"the model takes {batch} rows at a time, fewer were given")
    return [{name: a[i * batch : (i + 1) * batch].copy() for name, a in stored.items()} for i in range(count)]


def _time_block(backend: Backend, feeds: Sequence[dict[str, np.ndarray]], start: int, runs: int) -> list[int]:
    clock, run, count = time.perf_counter_ns, backend.run, len(feeds)
    run(feeds[start % count])  # brings this model's weights back into the caches; not timed
    taken = []
    for i in range(start, start + runs):
        feed = feeds[i % count]
        began = clock()
        run(feed)
        taken.append(clock() - began)
    return taken


def _warm_up(backend: Backend, feeds: Sequence[dict[str, np.ndarray]]) -> int:
    """Run until two blocks agree; the number of runs that fill a block."""
    began = time.perf_counter_ns()
    runs, previous = 1, 0.0
    while True:
        median = float(np.median(_time_block(backend, feeds, 0, runs)))
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
            blocks[i].append(_time_block(backend, feeds, rounds * runs, runs))
        rounds, seconds = rounds + 1, time.perf_counter() - began
        least_runs = rounds * min(runs for _, _, runs in loaded)
        if rounds * spec.epochs < spec.min_rounds or least_runs * spec.epochs < spec.min_runs:
            continue
        if seconds * spec.epochs >= spec.min_seconds:
            return blocks


def _series(epochs: Sequence[Sequence[Sequence[int]]]) -> dict[str, Any]:
    every = np.concatenate([np.asarray(block, np.float64) for blocks in epochs for block in blocks]) / 1e6
    p50, p90, p95, p99 = np.percentile(every, [50, 90, 95, 99])
    step = max(1, len(every) // _KEPT_SAMPLES)
    return {
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "mean_ms": float(every.mean()),
        "min_ms": float(every.min()),
        "runs": len(every),
        "block_ms": [[_low(np.asarray(block)) / 1e6 for block in blocks] for blocks in epochs],
        "sample_ms": [round(float(v), 6) for v in every[::step][:_KEPT_SAMPLES]],
    }


def _sustained(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """``min_seconds`` of inferences without pause; lower-quartile latency and sensors at the end of each window."""
    backend = _load(spec.models[0], spec.threads)
    feeds = _single_rows(backend, rows, 64)
    runs = _warm_up(backend, feeds)
    windows = []
    for _ in range(_WINDOWS):
        ends, taken = time.perf_counter() + spec.min_seconds / _WINDOWS, list[int]()
        while not taken or time.perf_counter() < ends:
            taken += _time_block(backend, feeds, len(taken), runs)
        windows.append({"low_ms": _low(np.asarray(taken)) / 1e6, "runs": len(taken), **sensors()})
    return {"runtime": backend.name, "version": backend.version, "windows": windows}


def _marked(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Warm inferences on one row, ``min_runs`` of them, a mark after each; the last two marks have nothing between.

    Before that the outputs of every row, as for ``outputs``: starting a process anew is what an emulator does worst.
    """
    backend = _load(spec.models[0], spec.threads)
    _write_outputs(backend, rows, Path(spec.outputs))
    feeds = _single_rows(backend, rows, 1)[0]
    for _ in range(_MARKED_WARM_UP):
        backend.run(feeds)
    _mark()
    for _ in range(spec.min_runs):
        backend.run(feeds)
        _mark()
    _mark()
    return {"runtime": backend.name, "version": backend.version, "runs": spec.min_runs}


def _operators(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    model = spec.models[0]
    backend = _load(BenchModel(model.path, model.format), spec.threads)
    names = model.input_names or tuple(tensor.name for tensor in backend.inputs)
    own = {tensor.name: rows[name] for tensor, name in zip(backend.inputs, names)}
    feeds = _single_rows(backend, own, 1)[0]
    with tempfile.TemporaryDirectory() as scratch:
        times = operator_times(
            Path(model.path), model.format, feeds, threads=spec.threads, runs=spec.min_runs, scratch=Path(scratch)
        )
    return {"runtime": backend.name, "version": backend.version, "operators": times[:_SHOWN_OPERATORS]}


def _mark() -> None:
    """A system call that nobody else makes: the plugin sees it, the kernel knows no such process."""
    try:
        os.getpgid(MARK)
    except ProcessLookupError:
        return


_RUNTIME_MODULES = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")}


def _import_runtime(fmt: str) -> None:
    """Import the runtime's library, so that neither load time nor memory counts it against the model."""
    for module in _RUNTIME_MODULES.get(fmt, ()):
        try:
            importlib.import_module(module)
        except ImportError:
            continue  # `load` names a runtime that is missing altogether
        return


def _status_mb(key: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    return None


def _resident_mb() -> float | None:
    return _status_mb("VmRSS")


def _peak_memory_mb() -> float | None:
    # VmHWM, not ru_maxrss: that one inherits the parent's memory from before the exec.
    return _status_mb("VmHWM")


def _reset_peak() -> None:
    """Let the high-water mark start anew (Linux proc(5), clear_refs); elsewhere it keeps the imports' peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # The increase is then an upper bound: it may hold a peak from importing the runtime.
        return


def _limit_memory(spec: BenchSpec) -> None:
    if spec.limit_mb is None:
        return
    import resource

    held = _status_mb("VmSize") or 0.0
    limit = int((held + spec.limit_mb) * (1 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def sensors() -> dict[str, Any]:
    """Temperature, frequency and governor as Linux shows them; what a machine does not have is left out."""
    found: dict[str, Any] = {}
    zones = [_number(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    temperatures = [zone / 1000 for zone in zones if zone is not None]
    if temperatures:
        found["temperature_c"] = max(temperatures)
    folder = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    frequency = _number(folder / "scaling_cur_freq")
    if frequency is not None:
        found["frequency_mhz"] = frequency / 1000
    if (folder / "scaling_governor").exists():
        found["governor"] = (folder / "scaling_governor").read_text().strip()
    return found


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None  # the sensor is not there, or is switched off


def _limit_cores(spec: BenchSpec) -> None:
    if spec.cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.cores])


def _machine() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _spec_of(content: Mapping[str, Any]) -> BenchSpec:
    known = {f.name for f in fields(BenchSpec)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise InputRejectedError(f"unknown keys {unknown} in the bench specification; known: {sorted(known)}")
    models = tuple(
        BenchModel(m["path"], m["format"], tuple(m.get("input_names", ())), tuple(m.get("output_names", ())))
        for m in content["models"]
    )
    return BenchSpec(**{**content, "models": models})


def main(argv: Sequence[str] | None = None) -> int:
    """Read a specification, measure, write the answer."""
    parser = argparse.ArgumentParser(prog="python -m edgewright_runtime.bench", description="Measure a model here.")
    parser.add_argument("--spec", type=Path, required=True, help="JSON: what to measure")
    parser.add_argument("--out", type=Path, required=True, help="JSON: where the answer goes")
    given = parser.parse_args(argv)
    answer: dict[str, Any]
    try:
        spec = _spec_of(json.loads(given.spec.read_text()))
        answer = bench(spec)
    except (EdgeRuntimeError, MemoryError) as e:
        answer = {"error": {"type": type(e).__name__, "message": str(e) or "out of memory"}}
    staged = given.out.with_suffix(".part")
    staged.write_text(json.dumps(answer))
    staged.replace(given.out)
    return 0


def spec_json(spec: BenchSpec) -> str:
    """A specification as the file that ``--spec`` reads."""
    return json.dumps(asdict(spec))


if __name__ == "__main__":
    sys.exit(main())

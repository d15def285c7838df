"""Measure a model on the machine it runs on: the same code on a workstation, under an emulator and on a board.

``python -m edgewright_runtime.bench --spec FILE --out FILE``; both files are JSON. The tasks:

- ``outputs``  run every row and keep the outputs: accuracy and parity are judged from them elsewhere;
- ``cold``     one model in a fresh process: load, first inference, memory;
- ``warm``     several models loaded at once, timed in interleaved blocks, so that what disturbs the machine
  disturbs all of them alike;
- ``sustained`` one model under sustained load, in windows: what heat does to it;
- ``operators`` one model: where its time goes, by the runtime's own profiler;
- ``marked``   one model, a mark before and after each inference: under the emulator, its plugin counts the
  instructions between two marks.

The answer holds what was measured, or an error, as `edgewright_runtime.bench.answer` defines them. A crash leaves no
answer at all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgewright_runtime.backends import Backend, run_rows
from edgewright_runtime.bench.answer import (
    BenchAnswer,
    BenchFailure,
    BenchFigures,
    ColdFigures,
    Machine,
    MachineState,
    MarkedFigures,
    OperatorFigures,
    OutputFigures,
    answer_json,
)
from edgewright_runtime.bench.operator_times import operator_times
from edgewright_runtime.bench.spec import (
    BenchModel,
    BenchSpec,
    load_model,
    read_arrays,
    single_rows,
    spec_json,
    spec_of,
    stored_feeds,
    write_arrays,
)
from edgewright_runtime.bench.timing import sustained, warm
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.health.process_memory import limit_memory, peak_memory_mb, reset_peak, resident_mb
from edgewright_runtime.health.sensors import Sensors
from edgewright_runtime.predict.encoding import dequantize

__all__ = [
    "MARK",
    "BenchModel",
    "BenchSpec",
    "bench",
    "carried_out",
    "cold_answer",
    "main",
    "read_arrays",
    "spec_json",
    "write_arrays",
]

_CHUNK_ROWS = 256  # rows at once where the batch axis is free: bounded memory, whatever the test split's length
_MARKED_WARM_UP = 3
_SHOWN_OPERATORS = 10
MARK = 0x45444745  # "EDGE": above the largest process id that Linux hands out (2^22)

F = TypeVar("F")


def bench(spec: BenchSpec) -> BenchAnswer[BenchFigures]:
    """Do one task.

    Raises:
        EdgeRuntimeError: a file that its runtime refuses, rows that do not fit, outputs that are not numbers.
    """
    tasks: dict[str, Callable[[BenchSpec, Mapping[str, np.ndarray]], BenchFigures]] = {
        "outputs": _outputs,
        "cold": _cold,
        "warm": warm,
        "marked": _marked,
        "operators": _operators,
        "sustained": sustained,
    }
    if spec.task not in tasks:
        raise InputRejectedError(f"unknown bench task '{spec.task}'; known: {', '.join(tasks)}")
    _limit_cores(spec)
    return carried_out(tasks[spec.task], spec)


def carried_out(task: Callable[[BenchSpec, Mapping[str, np.ndarray]], F], spec: BenchSpec) -> BenchAnswer[F]:
    """A task's answer for the specification's rows, with the machine and its state before and after."""
    rows = read_arrays(Path(spec.rows))
    look = Sensors()
    before = _state(look)
    figures = task(spec, rows)
    return BenchAnswer(figures, _machine(), before, _state(look))


def _outputs(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> OutputFigures:
    _limit_memory(spec)
    backend = load_model(spec.models[0], spec)
    count = _write_outputs(backend, rows, Path(spec.outputs))
    return OutputFigures(backend.name, backend.version, count)


def _write_outputs(backend: Backend, rows: Mapping[str, np.ndarray], path: Path) -> int:
    feeds = stored_feeds(backend, rows)
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
        collected[tensor.name] = dequantize(answers, tensor).astype(np.float64)
    write_arrays(path, collected)
    return count


def _cold(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> ColdFigures:
    model = spec.models[0]
    _import_runtime(model.format)
    _limit_memory(spec)
    return cold_answer(lambda: load_model(model, spec), lambda backend: single_rows(backend, rows, 1)[0])


_Loaded = TypeVar("_Loaded", bound=Backend)


def cold_answer(load_it: Callable[[], _Loaded], row_of: Callable[[_Loaded], Mapping[str, Any]]) -> ColdFigures:
    """Load and first inference of a fresh process whose runtime is imported, and its memory step by step."""
    # Read before it is reset: the peak of the process is the larger of the two.
    imported_peak = peak_memory_mb()
    reset_peak()
    before = resident_mb()
    began = time.perf_counter_ns()
    backend = load_it()
    loaded = time.perf_counter_ns()
    after_load = resident_mb()
    row = row_of(backend)
    ready = time.perf_counter_ns()
    backend.run(row)
    done = time.perf_counter_ns()
    after_first = resident_mb()
    for _ in range(10):  # some runtimes allocate their scratch memory after the first inference only
        backend.run(row)
    peak = peak_memory_mb()
    steps = (
        ("runtime imported", before),
        ("model loaded", after_load),
        ("first inference", after_first),
        ("ten more", resident_mb()),
    )
    return ColdFigures(
        backend.name,
        backend.version,
        load_ms=(loaded - began) / 1e6,
        first_ms=(done - ready) / 1e6,
        peak_memory_mb=None if peak is None else max(peak, imported_peak or 0.0),
        memory_steps=tuple((moment, held) for moment, held in steps if held is not None),
        added_memory_mb=None if peak is None or before is None else max(peak - before, 0.0),
    )


def _marked(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> MarkedFigures:
    """Warm inferences on one row, ``min_runs`` of them, a mark after each; the last two marks have nothing between.

    Before that the outputs of every row, as for ``outputs``: starting a process anew is what an emulator does worst.
    """
    backend = load_model(spec.models[0], spec)
    _write_outputs(backend, rows, Path(spec.outputs))
    feeds = single_rows(backend, rows, 1)[0]
    for _ in range(_MARKED_WARM_UP):
        backend.run(feeds)
    _mark()
    for _ in range(spec.min_runs):
        backend.run(feeds)
        _mark()
    # Two marks in a row: what a mark itself costs, to be taken off.
    _mark()
    return MarkedFigures(backend.name, backend.version, spec.min_runs)


def _mark() -> None:
    """A system call that nobody else makes: the plugin sees it, the kernel knows no such process."""
    try:
        os.getpgid(MARK)
    except ProcessLookupError:
        return


def _operators(spec: BenchSpec, rows: Mapping[str, np.ndarray]) -> OperatorFigures:
    model = spec.models[0]
    backend = load_model(BenchModel(model.path, model.format), spec)
    names = model.input_names or tuple(tensor.name for tensor in backend.inputs)
    own = {tensor.name: rows[name] for tensor, name in zip(backend.inputs, names)}
    feeds = single_rows(backend, own, 1)[0]
    with tempfile.TemporaryDirectory() as scratch:
        times = operator_times(
            Path(model.path), model.format, feeds, threads=spec.threads, runs=spec.min_runs, scratch=Path(scratch)
        )
    return OperatorFigures(backend.name, backend.version, times[:_SHOWN_OPERATORS])


_RUNTIME_MODULES = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")}


def _import_runtime(fmt: str) -> None:
    """Import the runtime's library, so that neither load time nor memory counts it against the model."""
    for module in _RUNTIME_MODULES.get(fmt, ()):
        try:
            importlib.import_module(module)
        except ImportError:
            continue  # `load` names a runtime that is missing altogether
        return


def _state(look: Sensors) -> MachineState:
    now = look.read()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return MachineState(
        now.temperature_c, now.frequency_mhz, governor.read_text().strip() if governor.exists() else None
    )


def _limit_memory(spec: BenchSpec) -> None:
    """From here on: what is held already, such as the runtime's library, does not count."""
    if spec.cgroup:
        (Path(spec.cgroup) / "cgroup.procs").write_text("0")  # 0 is this process
    elif spec.limit_mb is not None:
        limit_memory(spec.limit_mb)


def _limit_cores(spec: BenchSpec) -> None:
    if spec.cores is not None and hasattr(os, "sched_setaffinity"):
        # Of those that this process may use: in a container 0 may not be among them.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.cores])


def _processor() -> str | None:
    """As the system names it: a model on x86, the board on Arm Linux; None where it says neither."""
    if sys.platform == "darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        stdout = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        return stdout.strip() or None
    info, board = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return board.read_text().strip(chr(0)) if board.exists() else None


def _machine() -> Machine:
    return Machine(
        processor=_processor(),
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )


def main(argv: Sequence[str] | None = None, measure: Callable[[BenchSpec], BenchAnswer[Any]] = bench) -> int:
    """Read a specification, measure, write the answer; ``measure`` is `bench` or what takes its place."""
    parser = argparse.ArgumentParser(prog="python -m edgewright_runtime.bench", description="Measure a model here.")
    parser.add_argument("--spec", type=Path, required=True, help="JSON: what to measure")
    parser.add_argument("--out", type=Path, required=True, help="JSON: where the answer goes")
    given = parser.parse_args(argv)
    answer: BenchAnswer[Any] | BenchFailure
    try:
        spec = spec_of(json.loads(given.spec.read_text()))
        answer = measure(spec)
    except (EdgeRuntimeError, MemoryError) as e:
        answer = BenchFailure(type(e).__name__, str(e) or "out of memory")
    # Renamed when complete: who waits for the answer never reads half of it.
    staged = given.out.with_suffix(".part")
    staged.write_text(answer_json(answer))
    staged.replace(given.out)
    return 0

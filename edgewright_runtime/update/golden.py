"""Golden vectors: real inputs whose outputs were computed when the bundle was built, checked in a child process.

A damaged or unsuitable model can crash its interpreter; in a child that is a message, not the end of the device.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgewright_runtime.backends import import_runtime, run_rows
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.bundle.processor import misfit
from edgewright_runtime.errors import DamagedError, EdgeRuntimeError, IntegrityError, ShortageError, UnsuitableError
from edgewright_runtime.health.monitor import resident_memory_mb
from edgewright_runtime.npy import Npz
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.shortage import reads_as_shortage, shortage_or

__all__ = ["FAULTY", "LOADING", "check_bundle", "check_bundle_in_child", "largest_difference", "load_golden"]

# How the check of a bundle ends that is at fault itself; whatever else ends it says nothing of the bundle.
FAULTY = 3
# What it prints on stderr before it loads the model: a crash without it is the interpreter's or the runtime's.
LOADING = "loading the model"

_TIMEOUT_S = 300.0
_TIMED_RUNS = 30
# Importing ONNX Runtime or LiteRT itself; the budget is of what the model adds.
_RUNTIME_MEMORY_MB = 60.0
# What a service manager or a terminal sends; a model that misbehaves ends by others.
_FROM_OUTSIDE = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
# What code of the model, or a library that gave up on it, ends by. Every other signal is sent by somebody, or by the
# kernel where memory or a limit of time ran out.
_OF_CODE = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
# On a smaller stack than this, a crash says nothing of the model.
_MIN_STACK_BYTES = 1 << 20
# A child that had less of the processor than this share of its time was starved.
_BUSY_SHARE = 0.5


def check_bundle(
    folder: Path, threads: int | None = None, loading: Callable[[], None] | None = None
) -> dict[str, float]:
    """Open a bundle, run its golden vectors, and return the largest difference by output, in stored units.

    ``loading`` is called once everything but the model itself is loaded: a crash from then on is the model's own.

    Raises:
        DamagedError: a file is missing or changed.
        IntegrityError: the model does not load, or an output differs by more than the manifest's tolerance.
        UnsuitableError: the budget of latency or memory is missed on this device.
        ShortageError: memory is short just now, or the device too busy to tell how fast the model is.
    """
    try:
        manifest = open_bundle(folder)
    except IntegrityError as e:
        raise DamagedError(str(e)) from e
    try:
        import_runtime(manifest.format)
        if loading is not None:
            loading()
        return _checked(folder, threads)
    except (EdgeRuntimeError, OSError, MemoryError):
        raise
    except Exception as e:  # the runtimes' own, unforeseen
        raise shortage_or(IntegrityError, e, f"golden vectors: {type(e).__name__}: {str(e)[:300]}") from e


def _checked(folder: Path, threads: int | None) -> dict[str, float]:
    before_mb = resident_memory_mb()
    predictor = Predictor(folder, threads)
    golden = predictor.manifest.golden
    inputs, expected = load_golden(folder / golden.path)
    if set(expected) != set(golden.tolerance):
        raise IntegrityError(f"golden vectors: outputs {sorted(expected)}, expected {sorted(golden.tolerance)}")
    answers = run_rows(predictor.backend, inputs)
    reason = misfit(predictor.manifest.runtime.processor)
    why = f": {reason}" if reason else ""
    differences = {}
    for name, tolerance in golden.tolerance.items():
        difference = _difference(answers[name], expected[name], name)
        if difference > tolerance:
            raise IntegrityError(
                f"golden vectors: output '{name}' differs by {difference:.6g}, allowed are {tolerance:.6g}; "
                f"{predictor.backend.name} {predictor.backend.version} does not run this model correctly here{why}"
            )
        differences[name] = difference
    _check_budget(predictor, inputs, before_mb)
    return differences


def _check_budget(predictor: Predictor, inputs: dict[str, np.ndarray], before_mb: float | None) -> None:
    """One look before activation; the health window after it looks longer."""
    budget = predictor.manifest.budget
    after_mb = resident_memory_mb()
    if budget.max_memory_mb is not None and before_mb is not None and after_mb is not None:
        added = after_mb - before_mb
        if added > budget.max_memory_mb + _RUNTIME_MEMORY_MB:
            raise UnsuitableError(f"the model adds {added:.1f} MB here, its budget is {budget.max_memory_mb:g} MB")
    if budget.max_latency_ms is not None:
        _check_latency(predictor, inputs, budget.max_latency_ms)


def _check_latency(predictor: Predictor, inputs: dict[str, np.ndarray], limit_ms: float) -> None:
    """The budget is of the p95; where even the median misses it, no luck of the moment is to blame.

    Unless the processor was busy with something else: then the time that the model had of it fits.
    """
    # One row: the budget is of one inference.
    row = {name: array[:1] for name, array in inputs.items()}
    times, used = [], []
    for _ in range(_TIMED_RUNS):
        began, began_used = time.perf_counter(), time.process_time()
        run_rows(predictor.backend, row)
        times.append((time.perf_counter() - began) * 1000)
        # process_time adds up all threads; shared out, it is what the inference would take undisturbed.
        used.append((time.process_time() - began_used) * 1000 / predictor.threads)
    median, median_used = (sorted(series)[_TIMED_RUNS // 2] for series in (times, used))
    if median <= limit_ms:
        return
    message = f"one inference takes {median:.3g} ms here (median of {_TIMED_RUNS}), its budget is {limit_ms:g} ms"
    if median_used > limit_ms:
        raise UnsuitableError(message)
    raise ShortageError(f"{message}, of which the model had the processor for {median_used:.3g} ms: the device is busy")


def check_bundle_in_child(folder: Path, timeout_s: float = _TIMEOUT_S) -> None:
    """`check_bundle` in a fresh interpreter.

    Raises:
        IntegrityError: the bundle is at fault: the check failed, or the model crashed or hung its interpreter; the
            message is the child's last line.
        ShortageError: it could not be tried for want of memory, disk, time or a runtime.
        EdgeRuntimeError: it was ended from outside, as when the device shuts down: that says nothing of the bundle.
    """
    command = [sys.executable, "-m", "edgewright_runtime", "check", str(folder)]
    used_s = _children_s()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as e:
        # run() has killed and awaited the child by now, so its time counts. A model in a loop has had the
        # processor; on a busy device nothing has.
        kind = IntegrityError if _children_s() - used_s > _BUSY_SHARE * timeout_s else ShortageError
        raise kind(f"golden vectors: no result after {timeout_s:.0f} s") from e
    except OSError as e:
        raise ShortageError(f"the bundle's trial cannot be started: {e}") from e
    if done.returncode:
        raise _judged(done.returncode, done.stderr.decode(errors="replace"))


def _judged(code: int, stderr: str) -> EdgeRuntimeError:
    """Whose fault it was that the child ended so."""
    lines = [line for line in stderr.strip().splitlines() if line != LOADING]
    last = (lines or ["no message"])[-1][:400]
    if -code in _FROM_OUTSIDE:
        return EdgeRuntimeError(f"the bundle's trial was ended by signal {-code}; it is tried again")
    cause = f"ended by signal {-code}: " if code < 0 else ""
    crashed = -code in _OF_CODE and LOADING in stderr and not (_stack_is_small() or reads_as_shortage(stderr))
    if code == FAULTY or crashed:
        return IntegrityError(f"the bundle does not work on this device: {cause}{last}")
    return ShortageError(f"the bundle could not be tried: {cause}{last}")


def _stack_is_small() -> bool:
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)  # the child inherited it
    return limit != resource.RLIM_INFINITY and limit < _MIN_STACK_BYTES


def _children_s() -> float:
    """Processor time of this process's children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def load_golden(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and outputs by name, (rows, ...) each, from an ``.npz`` with ``input.NAME`` and ``output.NAME``.

    Raises:
        IntegrityError: not such a file.
    """
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    try:
        with Npz(path) as stored:
            for key in stored.files:
                kind, _, name = key.partition(".")
                # Another kind of key is a KeyError, and so refused below.
                {"input": inputs, "output": outputs}[kind][name] = stored[key]
    except Exception as e:  # what unpacks it raises errors of many kinds
        raise shortage_or(IntegrityError, e, f"golden vectors {path.name}: cannot be read: {str(e)[:200]}") from e
    return inputs, outputs


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Of two arrays of one shape; infinite where one is not finite and the other not the same."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    # The same infinity, such as a mask's, is agreement, as is NaN in both; subtracted they give NaN.
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    largest = float(apart.max(initial=0.0))
    return float("inf") if np.isnan(largest) else largest


def _difference(actual: np.ndarray, expected: np.ndarray, name: str) -> float:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise IntegrityError(
            f"golden vectors: output '{name}' is {actual.dtype} {list(actual.shape)}, "
            f"expected {expected.dtype} {list(expected.shape)}"
        )
    return largest_difference(actual, expected)

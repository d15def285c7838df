"""Golden vectors: real inputs whose outputs were computed when the bundle was built, checked in a child process.

A damaged or unsuitable model can crash its interpreter; in a child that is a message, not the end of the device.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

from edgewright_runtime.backends import run_rows
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, UnsuitableError
from edgewright_runtime.monitor import resident_memory_mb
from edgewright_runtime.predictor import Predictor

__all__ = ["check_bundle", "check_bundle_in_child", "load_golden"]

_TIMEOUT_S = 300.0
_TIMED_RUNS = 30
# Importing ONNX Runtime or LiteRT itself; the budget is of what the model adds.
_RUNTIME_MEMORY_MB = 60.0
# What a service manager or a terminal sends; a model that misbehaves ends by others.
_FROM_OUTSIDE = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def check_bundle(folder: Path, threads: int | None = None) -> dict[str, float]:
    """Open a bundle, run its golden vectors, and return the largest difference by output, in stored units.

    Raises:
        IntegrityError: a file is changed, or an output differs by more than the manifest's tolerance.
        UnsuitableError: the budget of latency or memory is missed on this device.
    """
    before_mb = resident_memory_mb()
    predictor = Predictor(folder, threads)
    golden = predictor.manifest.golden
    inputs, expected = load_golden(folder / golden.path)
    if set(expected) != set(golden.tolerance):
        raise IntegrityError(f"golden vectors: outputs {sorted(expected)}, expected {sorted(golden.tolerance)}")
    answers = run_rows(predictor.backend, inputs)
    differences = {}
    for name, tolerance in golden.tolerance.items():
        difference = _largest_difference(answers[name], expected[name], name)
        if not difference <= tolerance:
            raise IntegrityError(
                f"golden vectors: output '{name}' differs by {difference:.6g}, allowed are {tolerance:.6g}; "
                f"{predictor.backend.name} {predictor.backend.version} does not run this model correctly here"
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
        row = {name: array[:1] for name, array in inputs.items()}
        times = []
        for _ in range(_TIMED_RUNS):
            began = time.perf_counter()
            run_rows(predictor.backend, row)
            times.append((time.perf_counter() - began) * 1000)
        # The budget is of the p95; where even the median misses it, no luck of the moment is to blame.
        if (median := sorted(times)[len(times) // 2]) > budget.max_latency_ms:
            raise UnsuitableError(
                f"one inference takes {median:.3g} ms here (median of {_TIMED_RUNS}), "
                f"its budget is {budget.max_latency_ms:g} ms"
            )


def check_bundle_in_child(folder: Path, timeout_s: float = _TIMEOUT_S) -> None:
    """`check_bundle` in a fresh interpreter.

    Raises:
        IntegrityError: the check failed, crashed or did not end; the message is the child's last line.
        EdgeRuntimeError: it was ended from outside, as when the device shuts down: that says nothing of the bundle.
    """
    command = [sys.executable, "-m", "edgewright_runtime", "check", str(folder)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as e:
        raise IntegrityError(f"golden vectors: no result after {timeout_s:.0f} s") from e
    if -done.returncode in _FROM_OUTSIDE:
        raise EdgeRuntimeError(f"the bundle's trial was ended by signal {-done.returncode}; it is tried again")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        cause = f"ended by signal {-done.returncode}: " if done.returncode < 0 else ""
        raise IntegrityError(f"the bundle does not work on this device: {cause}{lines[-1][:400]}")


def load_golden(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and outputs by name, (rows, ...) each, from an ``.npz`` with ``input.NAME`` and ``output.NAME``.

    Raises:
        IntegrityError: not such a file.
    """
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                kind, _, name = key.partition(".")
                {"input": inputs, "output": outputs}[kind][name] = stored[key]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise IntegrityError(f"golden vectors {path.name}: cannot be read: {str(e)[:200]}") from e
    return inputs, outputs


def _largest_difference(found: np.ndarray, expected: np.ndarray, name: str) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise IntegrityError(
            f"golden vectors: output '{name}' is {found.dtype} {list(found.shape)}, "
            f"expected {expected.dtype} {list(expected.shape)}"
        )
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))

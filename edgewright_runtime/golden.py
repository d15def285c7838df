"""Golden vectors: real inputs whose outputs were computed when the bundle was built, checked in a child process.

A damaged or unsuitable model can crash its interpreter; in a child that is a message, not the end of the device.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from edgewright_runtime.backends import run_rows
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.predictor import Predictor

__all__ = ["check_bundle", "check_bundle_in_child", "load_golden"]

_TIMEOUT_S = 300.0


def check_bundle(folder: Path, threads: int = 1) -> dict[str, float]:
    """Open a bundle, run its golden vectors, and return the largest difference by output, in stored units.

    Raises:
        IntegrityError: a file is changed, or an output differs by more than the manifest's tolerance.
    """
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
    return differences


def check_bundle_in_child(folder: Path, timeout_s: float = _TIMEOUT_S) -> None:
    """`check_bundle` in a fresh interpreter.

    Raises:
        IntegrityError: the check failed, crashed or did not end; the message is the child's last line.
    """
    command = [sys.executable, "-m", "edgewright_runtime", "check", str(folder)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as e:
        raise IntegrityError(f"golden vectors: no result after {timeout_s:.0f} s") from e
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

"""This machine: the bench in a child process, so that a crash, a hang or a leak of the runtime stays there."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewright import errors
from edgewright.errors import ConversionError, EdgewrightError, UnsupportedError
from edgewright_runtime.bench import BenchSpec, spec_json

__all__ = ["answer_of", "run_bench"]

_PACKAGES = Path(__file__).parents[3]
_TAIL_BYTES = 2000


def run_bench(spec: BenchSpec, what: str, timeout_s: float = 600) -> dict[str, Any]:
    """Run the bench in a new interpreter on this machine and return its answer.

    ``what`` names the work in messages ("measuring digits_cnn.tflite").

    Raises:
        UnsupportedError: the runtime for this format is not installed.
        ConversionError: the runtime crashed, hung, ran out of memory, or refused the file or the rows.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered, log = (Path(scratch) / n for n in ("spec.json", "answer.json", "log.txt"))
        asked.write_text(spec_json(spec))
        command = [sys.executable, "-m", "edgewright_runtime.bench", "--spec", str(asked), "--out", str(answered)]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=_environment()
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired as e:
                raise ConversionError(f"{what}: no answer after {timeout_s:g} s; the process was stopped") from e
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        content = answered.read_text() if answered.exists() else None
        return answer_of(content, code, log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace"), what, spec)


def answer_of(content: str | None, code: int, log: str, what: str, spec: BenchSpec) -> dict[str, Any]:
    """The bench's answer, or the error that its absence or its content means."""
    if content is None:
        raise ConversionError(f"{what}: {_death(code, log, spec)}")
    answer: dict[str, Any] = json.loads(content)
    if "error" in answer:
        raise _named(answer["error"], what, spec)
    return answer


def _environment() -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(_PACKAGES), os.environ.get("PYTHONPATH")) if p)
    return {**os.environ, "PYTHONPATH": path}


def _death(code: int, log: str, spec: BenchSpec) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = f" ({lines[-1][:300]})" if lines else ""
    if spec.limit_mb is not None and any(word in log for word in ("bad_alloc", "MemoryError", "llocat", "alloc")):
        return _does_not_fit(spec)
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}{last}"
    return f"the process ended with exit code {code} and no answer{last}"


def _does_not_fit(spec: BenchSpec) -> str:
    return f"does not fit in {spec.limit_mb:g} MB"


def _named(error: Mapping[str, str], what: str, spec: BenchSpec) -> EdgewrightError:
    message = error["message"]
    if error["type"] == "BackendUnavailableError":
        return UnsupportedError(f"{what}: {message}")
    if error["type"] == "MemoryError" or (spec.limit_mb is not None and "alloc" in message):
        return ConversionError(f"{what}: {_does_not_fit(spec) if spec.limit_mb else 'out of memory'}")
    known = getattr(errors, error["type"], None)
    if isinstance(known, type) and issubclass(known, EdgewrightError):
        return known(f"{what}: {message}")
    return ConversionError(f"{what}: {message}")

"""One step of the zoo in a process of its own, and the whole truth about how it ended.

`edgewright.child` turns everything into one of our errors; here a foreign exception, a signal and a step that takes
too long stay what they are. A step is forked from a process that has the frameworks imported (`zoo_preload`), or has
an interpreter of its own where it needs TensorFlow.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Ended", "run", "run_here"]

_ROOT = Path(__file__).parents[1]
_TAIL = 300
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["benchmarks.zoo_preload"])


@dataclass(frozen=True)
class Ended:
    """How a step ended: ``kind`` is ``value``, ``error`` or ``died``."""

    kind: str
    seconds: float
    value: Any = None
    message: str = ""
    is_edgewright: bool = False
    error_notes: tuple[str, ...] = ()


def run(target: str, arguments: Mapping[str, Any], *, limit_s: float, forked: bool) -> Ended:
    """Call ``module:function`` with JSON arguments in a child; its value is JSON too.

    The child leads a process group of its own, which ends as a whole when the time is over.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        request, response, log = (Path(scratch) / name for name in ("request.json", "response.json", "log.txt"))
        request.write_text(json.dumps({"target": target, "arguments": dict(arguments)}))
        code = (_forked if forked else _spawned)(request, response, log, limit_s)
        seconds = time.perf_counter() - began
        if code is None:
            return Ended("died", seconds, message=f"no result after {limit_s:.0f} s; stopped")
        if not response.exists():
            return Ended("died", seconds, message=_cause(code, log))
        answer = json.loads(response.read_text())
    return Ended(seconds=seconds, **answer)


def run_here(target: str, arguments: Mapping[str, Any]) -> Ended:
    """The same in this process, for what starts children itself."""
    began = time.perf_counter()
    answer = _answer({"target": target, "arguments": arguments})
    return Ended(seconds=time.perf_counter() - began, **answer)


def _forked(request: Path, response: Path, log: Path, limit_s: float) -> int | None:
    """The exit code; None: it took too long."""
    process = _FORKS.Process(target=_in_fork, args=(request, response, log))
    process.start()
    process.join(limit_s)
    code = process.exitcode
    _end_group(process.pid)
    process.join()
    return code


def _in_fork(request: Path, response: Path, log: Path) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    main(request, response)


def _spawned(request: Path, response: Path, log: Path, limit_s: float) -> int | None:
    """The exit code; None: it took too long."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.zoo_child", str(request), str(response)],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end_group(process.pid)
        process.wait()


def _end_group(leader: int | None) -> None:
    """Whatever the step started and left running."""
    if leader is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def _cause(code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = f" ({lines[-1][:_TAIL]})" if lines else ""
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code} and no result"
    return f"the process was {how}{last}" if code < 0 else f"the process {how}{last}"


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    module, function = asked["target"].split(":")
    try:
        return {"kind": "value", "value": getattr(importlib.import_module(module), function)(**asked["arguments"])}
    except Exception as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()] or [repr(e)]
        ours = any(kind.__name__ == "EdgewrightError" for kind in type(e).__mro__)
        message = lines[0] if ours else f"{type(e).__name__}: {lines[0][:_TAIL]}"
        notes = [*getattr(e, "__notes__", ()), *([] if ours else [traceback.format_exc()])]
        return {"kind": "error", "message": message, "is_edgewright": ours, "error_notes": notes}


def main(request: Path, response: Path) -> None:
    """The child's side."""
    answer = _answer(json.loads(request.read_text()))
    staged = response.with_suffix(".part")
    staged.write_text(json.dumps(answer))
    staged.replace(response)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

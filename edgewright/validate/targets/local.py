"""This machine: the bench in a child process, so that a crash, a hang or a leak of the runtime stays there."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.errors import ConversionError
from edgewright.scratch import scratch_folder, system_scratch
from edgewright.validate.targets import cgroup
from edgewright.validate.targets.answers import OutOfMemoryError, TooSlowError, answer_of, expect_figures
from edgewright_runtime.bench.answer import BenchAnswer, ColdFigures
from edgewright_runtime.bench.run import BenchSpec, spec_json

if TYPE_CHECKING:  # run by its name: the graph of imports knows of it by this
    from edgewright_runtime import bench  # noqa: F401

__all__ = ["LocalTarget", "run_bench"]

_PACKAGES = Path(__file__).parents[3]
_TAIL_BYTES = 2000
_CORES_BOUND = "by affinity" if hasattr(os, "sched_setaffinity") else "not enforced"  # macOS has no affinity


@dataclass(frozen=True)
class LocalTarget:
    """This machine, bounded where asked: memory by a control group, else by RLIMIT_AS; processors by affinity.

    ``memory_mb`` is what loading and running a model may add to the process; None sets no bound.
    """

    memory_mb: float | None = None
    cores: int | None = None
    emulated: bool = False
    own_memory: bool = True

    @property
    def name(self) -> str:
        """How reports call it, with what was enforced."""
        bounds = []
        if self.memory_mb is not None:
            bounds.append(f"{self.memory_mb:g} MB {_memory_bound()}")
        if self.cores is not None:
            bounds.append(f"{self.cores} core(s) {_CORES_BOUND}")
        return f"this machine ({', '.join(bounds)})" if bounds else "this machine"

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """See `Target.run`."""
        bounded = replace(spec, cores=self.cores)
        if self.memory_mb is None:
            return run_bench(bounded, what, timeout_s)
        try:
            if (below := cgroup.delegated()) is None:
                return run_bench(replace(bounded, limit_mb=self.memory_mb), what, timeout_s)
            return self._run_in_group(below, bounded, what, timeout_s)
        except OutOfMemoryError as e:
            needed = self.needed_mb(spec, what, timeout_s)
            about = "" if needed is None else f" (needed about {needed:.0f} MB)"
            raise ConversionError(f"{what}: does not fit in {self.memory_mb:g} MB{about}") from e

    def _run_in_group(self, below: Path, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        with cgroup.memory_bound(below, self.memory_mb or 0) as group:
            try:
                return run_bench(replace(spec, cgroup=str(group)), what, timeout_s)
            except ConversionError as e:
                # The kernel ends a process without a word: its group's count tells that from a crash.
                if cgroup.was_out_of_memory(group):
                    raise OutOfMemoryError(f"{what}: out of memory") from e
                raise

    def needed_mb(self, spec: BenchSpec, what: str, timeout_s: float) -> float | None:
        """What loading and running the first model adds here without a bound; None where that fails too."""
        free = replace(spec, task="cold", models=spec.models[:1], outputs="", limit_mb=None)
        try:
            answer = expect_figures(run_bench(free, what, timeout_s), ColdFigures, what)
        except ConversionError:
            return None
        return answer.figures.added_memory_mb


def _memory_bound() -> str:
    """How a bound on memory holds here, or that it does not."""
    if cgroup.delegated() is not None:
        return "by cgroup v2"
    return "by RLIMIT_AS" if sys.platform == "linux" else f"not enforced: {platform.system()} has no such bound"


def run_bench(
    spec: BenchSpec,
    what: str,
    timeout_s: float = 600,
    *,
    interpreter: Sequence[str] = (sys.executable,),
    program: Sequence[str] = ("edgewright_runtime.bench",),
    environment: Mapping[str, str] | None = None,
) -> BenchAnswer[object]:
    """Run the bench by an interpreter of this machine, by default this one's own, and return its answer.

    ``program`` is its module, and what it takes beside the specification.

    Raises:
        UnsupportedError: the runtime for this format is not installed.
        ConversionError: the runtime crashed, hung, ran out of memory, or refused the file or the rows.
    """
    with scratch_folder(system_scratch()) as scratch:
        asked, answered, log = (scratch / n for n in ("spec.json", "answer.json", "log.txt"))
        asked.write_text(spec_json(spec))
        command = [*interpreter, "-m", *program, "--spec", str(asked), "--out", str(answered)]
        # A file, not a pipe: a runtime that logs much would wait for a reader.
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                # What the runtime puts into its temporary folder goes with the scratch.
                env={**os.environ, "PYTHONPATH": _python_path(), "TMPDIR": str(scratch), **(environment or {})},
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired as e:
                raise TooSlowError(f"{what}: no answer after {timeout_s:g} s; the process was stopped") from e
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        content = answered.read_text() if answered.exists() else None
        return answer_of(content, code, log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace"), spec.task, what)


def _python_path() -> str:
    return os.pathsep.join(p for p in (str(_PACKAGES), os.environ.get("PYTHONPATH")) if p)

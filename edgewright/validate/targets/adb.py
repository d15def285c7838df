"""An Android phone through the ``adb`` command: by LiteRT's own ``benchmark_model``, or by a Python on the phone.

The program takes random inputs and gives no outputs: it answers what a model costs on the phone, never how right it is.
A Python there (Termux has one) runs the device runtime, as on any board.
"""

import re
import shlex
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewright.artifact import digest_of
from edgewright.errors import ConversionError, DeviceUnreachableError, EdgewrightError, InputError, UnsupportedError
from edgewright.profile import AdbConnection
from edgewright.validate.targets.shell import ShellTarget, last_line
from edgewright_runtime.bench.answer import BenchAnswer, ColdFigures, LatencySeries, Machine, WarmFigures
from edgewright_runtime.bench.run import BenchSpec

__all__ = ["AdbPythonTarget", "AdbTarget", "BenchmarkRun", "parse_benchmark"]

_ROUNDS = 8  # invocations of each model, interleaved; each is one load, as an epoch of the bench is
_TRANSFER_S = 300
_GONE = re.compile(r"device '.*' not found|no devices|device offline|unauthorized|closed|cannot connect", re.IGNORECASE)
# The lines of its log, as tensorflow/lite/tools/benchmark writes them.
_TIMINGS = re.compile(r"Inference timings in us: Init: (\S+), First inference: (\S+),.*Inference \(avg\): (\S+)")
_COUNT = re.compile(r"count=(\d+) .*min=(\S+) .*avg=(\S+) .*p5=(\S+) median=(\S+) p95=(\S+)")
_MEMORY = re.compile(r"Memory footprint delta from the start of the tool \(MB\): init=(\S+) overall=(\S+)")
_DELEGATE = re.compile(r"(?:Explicitly applied|Applied|Created TensorFlow Lite) (\w+) delegate")
_RAN_BY = ("LiteRT benchmark_model", "as given")  # runtime and version


@dataclass(frozen=True)
class BenchmarkRun:
    """The figures of one invocation of benchmark_model, microseconds and MB; None where it printed none."""

    init_us: float
    first_us: float
    runs: int
    min_us: float
    mean_us: float
    median_us: float
    p95_us: float
    memory_mb: float | None
    delegate: str | None


@dataclass(frozen=True)
class AdbTarget:
    """A phone; ``serial`` in the connection chooses one of several."""

    connection: AdbConnection
    emulated: bool = False
    own_memory: bool = True

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"Android phone {self.connection.serial or ''} over adb".replace("  ", " ")

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """See `Target.run`: the tasks ``cold`` and ``warm`` of ``.tflite`` files."""
        if spec.task not in {"cold", "warm"}:
            raise UnsupportedError(f"{what}: benchmark_model on a phone gives no answer to '{spec.task}'")
        other = {model.format for model in spec.models} - {"tflite"}
        if other:
            raise UnsupportedError(f"{what}: benchmark_model reads .tflite files, not {', '.join(sorted(other))}")
        if self.connection.benchmark_model is None:
            raise InputError(f"{what}: the profile's adb names no benchmark_model")
        program = self._pushed(self.connection.benchmark_model, what)
        # The user's file may lack the mode of a program.
        self._shell(f"chmod 755 {shlex.quote(program)}", what, _TRANSFER_S)
        paths = [self._pushed(Path(model.path), what) for model in spec.models]
        if spec.task == "cold":
            return self._cold(self._benchmark(program, paths[0], spec, what, timeout_s))
        return self._warm(program, paths, spec, what, timeout_s)

    def _cold(self, run: BenchmarkRun) -> BenchAnswer[ColdFigures]:
        figures = ColdFigures(
            *_RAN_BY,
            load_ms=run.init_us / 1000,
            first_ms=run.first_us / 1000,
            peak_memory_mb=None,
            memory_steps=(),
            added_memory_mb=run.memory_mb,
        )
        return BenchAnswer(figures, _machine(run))

    def _warm(
        self, program: str, paths: list[str], spec: BenchSpec, what: str, timeout_s: float
    ) -> BenchAnswer[WarmFigures]:
        taken: list[list[BenchmarkRun]] = [[] for _ in paths]
        for turn in range(_ROUNDS):
            # There and back: what drifts within a round meets each model at either end.
            order = range(len(paths)) if turn % 2 == 0 else reversed(range(len(paths)))
            for i in order:
                taken[i].append(self._benchmark(program, paths[i], spec, what, timeout_s))
        return BenchAnswer(WarmFigures(*_RAN_BY, tuple(_series(runs) for runs in taken)), _machine(taken[0][0]))

    def _benchmark(self, program: str, path: str, spec: BenchSpec, what: str, timeout_s: float) -> BenchmarkRun:
        runs = max(1, -(-spec.min_runs // _ROUNDS))
        log = self._shell(
            f"{shlex.quote(program)} --graph={shlex.quote(path)} --num_threads={spec.threads} --num_runs={runs} "
            f"--min_secs={spec.min_seconds / _ROUNDS:.3f}",
            what,
            timeout_s,
        )
        return parse_benchmark(log, what)

    def _pushed(self, file: Path, what: str) -> str:
        """The file's path on the phone; pushed unless it is there already, whole: flash rots, too."""
        if not file.is_file():
            raise InputError(f"{what}: {file} is not there")
        digest = digest_of(file)
        path = f"{self.connection.folder}/{digest}{file.suffix}"
        quoted, part, folder = (shlex.quote(name) for name in (path, f"{path}.part", self.connection.folder))
        # `mkdir` in the same call: a call costs a handshake with the phone.
        if digest not in self._shell(f"sha256sum < {quoted} || mkdir -p {folder}", what, 60).split():
            # Under another name until it is whole, as a broken transfer leaves a part.
            self._adb(["push", str(file), f"{path}.part"], what, _TRANSFER_S)
            self._shell(f"mv {part} {quoted}", what, 60)
        return path

    def _shell(self, command: str, what: str, timeout_s: float) -> str:
        return self._adb(["shell", command], what, timeout_s)

    def _adb(self, arguments: list[str], what: str, timeout_s: float) -> str:
        serial = ["-s", self.connection.serial] if self.connection.serial else []
        try:
            done = subprocess.run(
                ["adb", *serial, *arguments],  # noqa: S607 - the user's own adb, wherever PATH has it
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise ConversionError(f"{what}: no answer after {timeout_s:g} s; the process was stopped") from e
        except FileNotFoundError as e:
            raise InputError(f"{what}: no adb command here (Debian: apt-get install adb)") from e
        log = f"{done.stdout}\n{done.stderr}"
        if done.returncode and _GONE.search(log):
            raise DeviceUnreachableError(f"{what}: {self.name}: {_last_line(log)}")
        if done.returncode:
            raise ConversionError(f"{what}: {self.name}: exit code {done.returncode}: {_last_line(log)}")
        return log


@dataclass(frozen=True)
class AdbPythonTarget(ShellTarget):
    """A phone whose own Python runs the device runtime: outputs, memory and heat too, by the CPU."""

    connection: AdbConnection
    emulated: bool = False
    own_memory: bool = True

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"Android phone {self.connection.serial or ''} over adb, by its Python".replace("  ", " ")

    @property
    def _folder(self) -> str:
        return shlex.quote(self.connection.folder)

    @property
    def _python(self) -> str:
        return shlex.quote(self.connection.python or "python3")

    def _carrier(self) -> list[str]:
        serial = ["-s", self.connection.serial] if self.connection.serial else []
        return ["adb", *serial, "shell", "-T"]  # -T: no terminal, which would change what passes through

    def _lost(self, code: int, stderr: bytes, what: str) -> EdgewrightError | None:
        if _GONE.search(stderr.decode(errors="replace")):
            return DeviceUnreachableError(f"{what}: {self.name}: {last_line(stderr)}")
        return None


def parse_benchmark(log: str, what: str) -> BenchmarkRun:
    """The figures in the log of one invocation of benchmark_model.

    Raises:
        ConversionError: no timings: the program failed on this model.
        UnsupportedError: the program is too old to print percentiles.
    """
    timings, counts = _TIMINGS.search(log), _COUNT.findall(log)
    if timings is None:
        raise ConversionError(f"{what}: benchmark_model gave no timings: {_last_line(log)}")
    if not counts:
        raise UnsupportedError(f"{what}: this benchmark_model prints no median and p95: build one of 2024 or later")
    runs, least, mean, _, median, p95 = counts[-1]  # the warm-up's counts come before the measured ones
    memory, delegate = _MEMORY.search(log), _DELEGATE.search(log)
    return BenchmarkRun(
        init_us=float(timings.group(1)),
        first_us=float(timings.group(2)),
        runs=int(runs),
        min_us=float(least),
        mean_us=float(mean),
        median_us=float(median),
        p95_us=float(p95),
        memory_mb=float(memory.group(2)) if memory else None,
        delegate=delegate.group(1) if delegate else None,
    )


def _machine(run: BenchmarkRun) -> Machine:
    return Machine(machine="Android", delegate=run.delegate or "none (CPU, XNNPACK)")


def _series(runs: Sequence[BenchmarkRun]) -> LatencySeries:
    medians = tuple(run.median_us / 1000 for run in runs)
    return LatencySeries(
        p50_ms=statistics.median(medians),
        p90_ms=None,  # the program prints neither p90 nor p99
        p95_ms=statistics.median(run.p95_us for run in runs) / 1000,
        p99_ms=None,
        mean_ms=statistics.fmean(run.mean_us for run in runs) / 1000,
        min_ms=min(run.min_us for run in runs) / 1000,
        runs=sum(run.runs for run in runs),
        # An invocation is a block of its own; the program gives no single times, so its medians stand for them.
        block_ms=tuple((median,) for median in medians),
        sample_ms=medians,
    )


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"

"""Latency, load time and memory of a candidate beside its baseline, in child processes of this machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from edgewright.artifact import Artifact, Dataset, Exported, Format
from edgewright.codec.download import download_bytes
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.measurement import (
    ComputePlan,
    Cost,
    Energy,
    Interval,
    Latency,
    Performance,
    Sustained,
    Verdict,
)
from edgewright.profile import DeviceProfile, Timing
from edgewright.statistics import intervals
from edgewright.store import Store
from edgewright.validate import core_ml_units
from edgewright.validate.rows import read_rows
from edgewright.validate.targets import Target
from edgewright.validate.targets.answers import expect_figures
from edgewright.validate.targets.choice import opened
from edgewright_runtime.bench.answer import (
    BenchAnswer,
    BenchFigures,
    ColdFigures,
    LatencySeries,
    Machine,
    MachineState,
    OperatorFigures,
    OperatorTime,
    SustainedFigures,
    WarmFigures,
)
from edgewright_runtime.bench.run import BenchModel, BenchSpec, write_arrays
from edgewright_runtime.bundle.manifest import Kernels

__all__ = ["measure", "performance_of"]

F = TypeVar("F")

_HEATED = ("ssh", "adb")  # boards and phones, which have no fan
_SUSTAINED_S = 60.0
_PROFILED_RUNS = 20
_THROTTLED = 0.9  # a lower clock after the run than this share of the one before it
_ROWS = 64  # different real rows that the timing cycles through
_NO_HEAT = (
    "latency under heat: a sustained run shows it, on a board or phone by default, elsewhere with `edgewright validate`"
)


def measure(
    baseline: Exported,
    candidate: Exported,
    dataset: Dataset,
    device: DeviceProfile,
    *,
    target: Target | None = None,
    min_seconds: float | None = None,
    sustained_seconds: float | None = None,
    timeout_s: float = 300,
) -> Performance:
    """Cold figures of each model from a process of its own, warm ones interleaved in one process with both.

    The baseline is loaded twice there: how far its two copies differ is the machine's noise. Where candidate and
    baseline are the same file, that is all there is to measure. Threads are the profile's, and one beside them, and so
    are the minimum runs and seconds, unless ``min_seconds`` is given;
    ``target`` is the profile's own, else this machine with the device's memory as its bound; nobody else measures
    there meanwhile. ``sustained_seconds`` of sustained load on the candidate show what heat does to it: on a board or a
    phone a minute by default, elsewhere none. An emulated device shows memory, and no time. Where Core ML is not, or
    is too old for the model, nothing is measured of an ``.mlpackage``, and the answer says so.

    Raises:
        ConversionError: a model crashes its runtime, hangs, does not fit, or does not take the dataset's rows.
        UnsupportedError: the runtime is not installed there.
        DeviceUnreachableError: the target did not answer.
    """
    timing = device.timing if min_seconds is None else device.timing.model_copy(update={"min_seconds": min_seconds})
    options = (timing, sustained_seconds, timeout_s)
    if candidate.artifact.format is not Format.MLPACKAGE:
        return _measured(baseline, candidate, dataset, device, target, *options)
    reason = core_ml_units.NOT_HERE
    if core_ml_units.is_here():
        try:
            return _measured(baseline, candidate, dataset, device, target, *options)
        except UnsupportedError as e:
            reason = str(e)
    return _unmeasured(baseline, candidate, f"latency, load time and memory: {reason}", "this machine")


def _measured(
    baseline: Exported,
    candidate: Exported,
    dataset: Dataset,
    device: DeviceProfile,
    target: Target | None,
    timing: Timing,
    sustained_seconds: float | None,
    timeout_s: float,
) -> Performance:
    in_core_ml = candidate.artifact.format is Format.MLPACKAGE
    with ExitStack() as stack:
        target = target or stack.enter_context(opened(device))
        scratch = stack.enter_context(Store().workspace())
        names = _write_rows(dataset, scratch)
        session = _Session(target, scratch / "rows.npz", device.threads, device.kernels, timing, timeout_s)
        before, after = _file(baseline, names), _file(candidate, names)
        same = baseline.artifact.digest == candidate.artifact.digest
        if target.emulated:
            return _memory_alone(baseline, candidate, session, before, after)
        cold = [session.cold(file).figures for file in ((before,) if same else (before, after))]
        operators, reason = session.operators(after)
        warm = session.warm((before, before) if same else (before, after, before))
        threads = "its own threads" if in_core_ml else f"{device.threads} thread(s)"
        performance = performance_of(baseline, candidate, cold, operators, warm, f"{target.name}, {threads}")
        plan, unplanned = session.compute_plan(after) if in_core_ml else (None, "")
        # With one thread the figures are those already taken; Core ML chooses its threads itself.
        if device.threads > 1 and not in_core_ml:
            performance = _with_one_thread(performance, replace(session, threads=1), before, after)
        if sustained_seconds is None and device.target_kind in _HEATED:
            sustained_seconds = _SUSTAINED_S
        sustained, cool = session.sustained(after, sustained_seconds) if sustained_seconds else (None, _NO_HEAT)
    missing = tuple(filter(None, (_too_few(performance, timing), reason, unplanned, cool)))
    return performance.model_copy(update={"not_measured": missing, "sustained": sustained, "compute_plan": plan})


def _with_one_thread(
    performance: Performance, session: "_Session", before: BenchModel, after: BenchModel
) -> Performance:
    """Both models again with one thread: what is left where the other cores are busy."""
    same = before == after
    answer = session.warm((before,) if same else (before, after))
    one = [_latency(series) for series in answer.figures.series]
    return performance.model_copy(
        update={
            "baseline": performance.baseline.model_copy(update={"one_thread": one[0]}),
            "candidate": performance.candidate.model_copy(update={"one_thread": one[-1]}),
        }
    )


def _memory_alone(
    baseline: Exported, candidate: Exported, session: "_Session", before: BenchModel, after: BenchModel
) -> Performance:
    """An emulated target: what a model holds there is real where the whole machine is emulated, time never is."""
    target = session.target
    performance = _unmeasured(baseline, candidate, f"latency: time on {target.name} means nothing", target.name)
    if not target.own_memory:
        return performance
    cold = [session.cold(before), session.cold(after)]
    costs = [
        cost.model_copy(
            update={
                "peak_memory_mb": answer.figures.peak_memory_mb,
                "added_memory_mb": answer.figures.added_memory_mb,
                "memory_steps": answer.figures.memory_steps,
            }
        )
        for cost, answer in zip((performance.baseline, performance.candidate), cold, strict=True)
    ]
    update = {"baseline": costs[0], "candidate": costs[1], "environment": _environment(cold[1])}
    return performance.model_copy(update={**update, "runtime": cold[1].figures.ran_by})


@dataclass(frozen=True)
class _Session:
    """The bench's tasks on one target, with the same rows, threads and kernels."""

    target: Target
    rows: Path
    threads: int
    kernels: Kernels
    timing: Timing
    timeout_s: float

    def cold(self, file: BenchModel) -> BenchAnswer[ColdFigures]:
        return self._run(self._spec("cold", (file,)), ColdFigures, f"loading {Path(file.path).name}")

    def warm(self, files: tuple[BenchModel, ...]) -> BenchAnswer[WarmFigures]:
        # The candidate is the second of the models; alone, the baseline is the candidate.
        what = f"timing {Path(files[min(1, len(files) - 1)].path).name}"
        # A series of timings takes at least so long, whatever a model needs.
        return self._run(self._spec("warm", files), WarmFigures, what, self.timing.min_seconds)

    def operators(self, file: BenchModel) -> tuple[tuple[OperatorTime, ...], str]:
        """Time by operator, or why it was not measured."""
        spec = replace(self._spec("operators", (file,)), min_runs=_PROFILED_RUNS)
        try:
            return self._run(spec, OperatorFigures, "per-operator time").figures.operators, ""
        except UnsupportedError as e:
            return (), str(e)

    def compute_plan(self, file: BenchModel) -> tuple[ComputePlan | None, str]:
        """Core ML's compute plan, or why there is none."""
        try:
            return self._run(self._spec("compute_plan", (file,)), ComputePlan, "compute plan").figures, ""
        except (UnsupportedError, ConversionError) as e:  # an estimate; what was measured holds without it
            return None, str(e)

    def sustained(self, file: BenchModel, seconds: float) -> tuple[Sustained | None, str]:
        """Sustained latency over so many seconds, or why it was not measured."""
        spec = replace(self._spec("sustained", (file,)), min_seconds=seconds)
        try:
            answer = self._run(spec, SustainedFigures, f"heating with {Path(file.path).name}", seconds)
        except UnsupportedError as e:
            return None, str(e)
        return _sustained(answer.figures, seconds), ""

    def _spec(self, task: str, files: tuple[BenchModel, ...]) -> BenchSpec:
        return BenchSpec(
            task,
            files,
            str(self.rows),
            threads=self.threads,
            kernels=self.kernels,
            min_runs=self.timing.min_runs,
            min_seconds=self.timing.min_seconds,
        )

    def _run(self, spec: BenchSpec, kind: type[F], what: str, seconds: float = 0) -> BenchAnswer[F]:
        """``seconds`` are those that the task itself takes at least."""
        return expect_figures(self.target.run(spec, what, self.timeout_s + seconds), kind, what)


def _too_few(performance: Performance, timing: Timing) -> str:
    """What is missing of the runs that the profile asks for; empty where nothing is."""
    runs = min(cost.latency.runs for cost in (performance.baseline, performance.candidate) if cost.latency is not None)
    return "" if runs >= timing.min_runs else f"latency of {timing.min_runs} runs: {runs} had to do, for want of time"


def performance_of(
    baseline: Exported,
    candidate: Exported,
    cold: Sequence[ColdFigures],
    operators: tuple[OperatorTime, ...],
    warm: BenchAnswer[WarmFigures],
    target: str,
) -> Performance:
    """What the bench answered, compared: ``cold`` of each file, ``operators`` of the candidate.

    Series are baseline, candidate, baseline again; or the baseline twice where the candidate is the same file.
    """
    series = warm.figures.series
    # Two loads of the same file: what they differ by is noise.
    again = intervals.latency_ratio(series[0].block_ms, series[-1].block_ms)
    same = len(series) == 2
    ratio = again if same else intervals.latency_ratio(series[0].block_ms, series[1].block_ms)
    verdict: Verdict = "no difference that this machine can show" if same else intervals.latency_verdict(ratio, again)
    return Performance(
        target=target,
        runtime=warm.figures.ran_by,
        baseline=_cost(baseline, cold[0], series[0], operators if same else ()),
        candidate=_cost(candidate, cold[-1], series[0 if same else 1], operators),
        # One file is as fast as itself; the interval shows what the machine's noise makes of that.
        ratio=Interval(value=1.0, low=again.low, high=again.high) if same else ratio,
        noise=again,
        verdict=verdict,
        environment=(*_environment(warm), ("measured on", target)),
    )


def _environment(answer: BenchAnswer[BenchFigures]) -> tuple[tuple[str, str], ...]:
    """The machine, and its temperature, frequency and governor before and after, where it shows them."""
    environment = {"runtime": answer.figures.ran_by, **_shown(answer.machine)}
    for moment, state in (("before", answer.before), ("after", answer.after)):
        environment |= {f"{name} {moment}": value for name, value in _shown(state).items()}
    before, after = answer.before.frequency_mhz, answer.after.frequency_mhz
    # Downwards alone: a clock that rises under load is no sign of heat.
    if before and after and after < _THROTTLED * before:
        environment["throttled"] = f"yes: from {before:.0f} to {after:.0f} MHz"
    return tuple(environment.items())


def _shown(values: Machine | MachineState) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(values).items() if value is not None}


def _unmeasured(baseline: Exported, candidate: Exported, reason: str, target: str) -> Performance:
    return Performance(
        target=target,
        runtime=candidate.runtime,
        baseline=Cost(artifact=baseline.artifact, download_bytes=_transfer_bytes(baseline.artifact)),
        candidate=Cost(artifact=candidate.artifact, download_bytes=_transfer_bytes(candidate.artifact)),
        ratio=None,
        noise=None,
        verdict="not measured",
        not_measured=(reason,),
    )


def _write_rows(dataset: Dataset, folder: Path) -> list[str]:
    """A few real test rows for the bench; the names of the inputs."""
    inputs = read_rows(dataset).inputs
    write_arrays(folder / "rows.npz", {name: array[:_ROWS] for name, array in inputs.items()})
    return list(inputs)


def _file(exported: Exported, rows: list[str]) -> BenchModel:
    own = [spec.name for spec in exported.inputs]
    # The file's own order where it has the dataset's names; some converters give inputs names of their own.
    names = own if set(own) == set(rows) else rows
    return BenchModel(str(exported.artifact.path), exported.artifact.format.value, tuple(names))


@lru_cache(maxsize=64)  # a baseline is measured beside each candidate
def _transfer_bytes(artifact: Artifact) -> int:
    return download_bytes(artifact.path)


def _latency(series: LatencySeries) -> Latency:
    return Latency(**{name: getattr(series, name) for name in Latency.model_fields})


def _sustained(figures: SustainedFigures, seconds: float) -> Sustained:
    joules, meter = figures.joules, figures.meter  # both or neither
    return Sustained(
        seconds=seconds,
        low_ms=tuple(window.low_ms for window in figures.windows),
        temperature_c=tuple(window.temperature_c for window in figures.windows if window.temperature_c is not None),
        energy=None if joules is None or meter is None else Energy(joules=joules, source=meter),
    )


def _cost(exported: Exported, cold: ColdFigures, series: LatencySeries, operators: tuple[OperatorTime, ...]) -> Cost:
    return Cost(
        artifact=exported.artifact,
        download_bytes=_transfer_bytes(exported.artifact),
        latency=_latency(series),
        load_ms=cold.load_ms,
        first_ms=cold.first_ms,
        peak_memory_mb=cold.peak_memory_mb,
        added_memory_mb=cold.added_memory_mb,
        memory_steps=cold.memory_steps,
        operators=operators,
    )

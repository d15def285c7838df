"""Latency, load time and memory of a candidate beside its baseline, in child processes of this machine."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, Dataset, Exported, Format
from edgewright.codec.download import download_bytes
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.measurement import (
    ComputePlan,
    Cost,
    Energy,
    Interval,
    Latency,
    OperatorTime,
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
from edgewright.validate.targets.choice import opened
from edgewright_runtime.bench.run import BenchModel, BenchSpec, write_arrays
from edgewright_runtime.bundle.manifest import Kernels

__all__ = ["measure", "performance_of"]

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
        cold = {"baseline": session.cold(before)} | ({} if same else {"candidate": session.cold(after)})
        operators, reason = session.operators(after)
        cold["baseline" if same else "candidate"]["operators"] = operators
        warm = session.warm((before, before) if same else (before, after, before))
        threads = "its own threads" if in_core_ml else f"{device.threads} thread(s)"
        performance = performance_of(baseline, candidate, cold, warm, f"{target.name}, {threads}")
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
    series = session.warm((before,) if same else (before, after))["series"]
    one = [_latency(taken) for taken in series]
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
                "peak_memory_mb": taken["peak_memory_mb"],
                "added_memory_mb": taken["added_memory_mb"],
                "memory_steps": tuple((moment, held) for moment, held in taken["memory_steps"]),
            }
        )
        for cost, taken in zip((performance.baseline, performance.candidate), cold, strict=True)
    ]
    update = {"baseline": costs[0], "candidate": costs[1], "environment": _environment(cold[1])}
    return performance.model_copy(update={**update, "runtime": f"{cold[1]['runtime']} {cold[1]['version']}"})


@dataclass(frozen=True)
class _Session:
    """The bench's tasks on one target, with the same rows, threads and kernels."""

    target: Target
    rows: Path
    threads: int
    kernels: Kernels
    timing: Timing
    timeout_s: float

    def cold(self, file: BenchModel) -> dict[str, Any]:
        return self._run(self._spec("cold", (file,)), f"loading {Path(file.path).name}")

    def warm(self, files: tuple[BenchModel, ...]) -> dict[str, Any]:
        # The candidate is the second of the models; alone, the baseline is the candidate.
        what = f"timing {Path(files[min(1, len(files) - 1)].path).name}"
        # A series of timings takes at least so long, whatever a model needs.
        return self.target.run(self._spec("warm", files), what, self.timeout_s + self.timing.min_seconds)

    def operators(self, file: BenchModel) -> tuple[list[dict[str, Any]], str]:
        """Time by operator, or why it was not measured."""
        spec = replace(self._spec("operators", (file,)), min_runs=_PROFILED_RUNS)
        try:
            return self._run(spec, "per-operator time")["operators"], ""
        except UnsupportedError as e:
            return [], str(e)

    def compute_plan(self, file: BenchModel) -> tuple[ComputePlan | None, str]:
        """Core ML's compute plan, or why there is none."""
        try:
            answer = self._run(self._spec("compute_plan", (file,)), "compute plan")
        except (UnsupportedError, ConversionError) as e:  # an estimate; what was measured holds without it
            return None, str(e)
        return ComputePlan(**{name: answer[name] for name in ComputePlan.model_fields}), ""

    def sustained(self, file: BenchModel, seconds: float) -> tuple[Sustained | None, str]:
        """Sustained latency over so many seconds, or why it was not measured."""
        spec = replace(self._spec("sustained", (file,)), min_seconds=seconds)
        try:
            answer = self.target.run(spec, f"heating with {Path(file.path).name}", self.timeout_s + seconds)
        except UnsupportedError as e:
            return None, str(e)
        windows = answer["windows"]
        metered = "joules" in answer
        sustained_run = Sustained(
            seconds=seconds,
            low_ms=tuple(window["low_ms"] for window in windows),
            temperature_c=tuple(window["temperature_c"] for window in windows if "temperature_c" in window),
            energy=Energy(joules=answer["joules"], source=answer["meter"]) if metered else None,
        )
        return sustained_run, ""

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

    def _run(self, spec: BenchSpec, what: str) -> dict[str, Any]:
        return self.target.run(spec, what, self.timeout_s)


def _too_few(performance: Performance, timing: Timing) -> str:
    """What is missing of the runs that the profile asks for; empty where nothing is."""
    runs = min(cost.latency.runs for cost in (performance.baseline, performance.candidate) if cost.latency is not None)
    return "" if runs >= timing.min_runs else f"latency of {timing.min_runs} runs: {runs} had to do, for want of time"


def performance_of(
    baseline: Exported, candidate: Exported, cold: Mapping[str, Any], warm: Mapping[str, Any], target: str
) -> Performance:
    """The bench's answers as typed figures; ``cold`` holds one answer per model, ``warm`` its series.

    Series are baseline, candidate, baseline again; or the baseline twice where the candidate is the same file.
    """
    series = warm["series"]
    # Two loads of the same file: what they differ by is noise.
    again = intervals.latency_ratio(series[0]["block_ms"], series[-1]["block_ms"])
    same = len(series) == 2
    ratio = again if same else intervals.latency_ratio(series[0]["block_ms"], series[1]["block_ms"])
    verdict: Verdict = "no difference that this machine can show" if same else intervals.latency_verdict(ratio, again)
    return Performance(
        target=target,
        runtime=f"{warm['runtime']} {warm['version']}",
        baseline=_cost(baseline, cold["baseline"], series[0]),
        candidate=_cost(candidate, cold["baseline" if same else "candidate"], series[0 if same else 1]),
        # One file is as fast as itself; the interval shows what the machine's noise makes of that.
        ratio=Interval(value=1.0, low=again.low, high=again.high) if same else ratio,
        noise=again,
        verdict=verdict,
        environment=(*_environment(warm), ("measured on", target)),
    )


def _environment(warm: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The machine, and its temperature, frequency and governor before and after, where it shows them."""
    environment = {"runtime": f"{warm['runtime']} {warm['version']}"}
    environment |= {key: str(value) for key, value in warm["machine"].items()}
    for moment in ("before", "after"):
        environment.update({f"{key} {moment}": str(value) for key, value in warm.get(moment, {}).items()})
    before, after = (warm.get(moment, {}).get("frequency_mhz") for moment in ("before", "after"))
    # Downwards alone: a clock that rises under load is no sign of heat.
    if before and after and after < _THROTTLED * before:
        environment["throttled"] = f"yes: from {before:.0f} to {after:.0f} MHz"
    return tuple(environment.items())


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


def _latency(series: Mapping[str, Any]) -> Latency:
    return Latency(**{key: series[key] for key in Latency.model_fields})


def _cost(exported: Exported, cold: Mapping[str, Any], series: Mapping[str, Any]) -> Cost:
    return Cost(
        artifact=exported.artifact,
        download_bytes=_transfer_bytes(exported.artifact),
        latency=_latency(series),
        load_ms=cold["load_ms"],
        first_ms=cold["first_ms"],
        peak_memory_mb=cold["peak_memory_mb"],
        added_memory_mb=cold["added_memory_mb"],
        memory_steps=tuple((moment, held) for moment, held in cold["memory_steps"]),
        operators=tuple(OperatorTime(**row) for row in cold.get("operators", ())),
    )

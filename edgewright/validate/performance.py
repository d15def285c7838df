"""Latency, load time and memory of a candidate beside its baseline, in child processes of this machine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, Dataset, Exported, Format
from edgewright.errors import UnsupportedError
from edgewright.measurement import Cost, Interval, Latency, OperatorTime, Performance, Sustained, Verdict
from edgewright.profile import DeviceProfile
from edgewright.store import Store
from edgewright.validate import statistics
from edgewright.validate.download import download_bytes
from edgewright.validate.rows import read_rows
from edgewright.validate.targets import Target
from edgewright.validate.targets.choice import target_of
from edgewright_runtime.bench import BenchModel, BenchSpec, write_arrays

__all__ = ["measure", "performance_of"]

_BOARD_SECONDS = 60.0
_PROFILED_RUNS = 20
_THROTTLED = 0.9  # a lower clock after the run than this share of the one before it
_ROWS = 64  # different real rows that the timing cycles through
_CORE_ML = "latency, load time and memory: Core ML runs on macOS and iOS only"
_CORE_ML_HERE = "latency, load time and memory: this version times no Core ML model; Xcode's performance report does"


def measure(
    baseline: Exported,
    candidate: Exported,
    dataset: Dataset,
    device: DeviceProfile,
    *,
    target: Target | None = None,
    min_seconds: float = 1.0,
    sustained_seconds: float | None = None,
    timeout_s: float = 300,
) -> Performance:
    """Cold figures of each model from a process of its own, warm ones interleaved in one process with both.

    The baseline is loaded twice there: how far its two copies differ is the machine's noise. Where candidate and
    baseline are the same file, that is all there is to measure. Threads are the profile's;
    ``target`` is the profile's own board or phone, else this machine with the device's memory as its bound.
    ``sustained_seconds`` of the candidate without pause show what heat does to it; on a board a minute by default.

    Raises:
        ConversionError: a model crashes its runtime, hangs, does not fit, or does not take the dataset's rows.
        UnsupportedError: the runtime is not installed there.
        DeviceUnreachableError: the target did not answer.
    """
    if candidate.artifact.format is Format.MLPACKAGE:
        return _unmeasured(baseline, candidate, _CORE_ML_HERE if sys.platform == "darwin" else _CORE_ML, "this machine")
    target = target or target_of(device)
    if target.emulated:
        return _unmeasured(baseline, candidate, f"latency: time on {target.name} means nothing", target.name)
    with Store().workspace() as scratch:
        names = _write_rows(dataset, scratch)
        session = _Session(target, scratch / "rows.npz", device.threads, min_seconds, timeout_s)
        before, after = _file(baseline, names), _file(candidate, names)
        same = baseline.artifact.digest == candidate.artifact.digest
        cold = {"baseline": session.cold(before)} | ({} if same else {"candidate": session.cold(after)})
        operators, reason = session.operators(after)
        cold["baseline" if same else "candidate"]["operators"] = operators
        warm = session.warm((before, before) if same else (before, after, before))
        found = performance_of(baseline, candidate, cold, warm, f"{target.name}, {device.threads} thread(s)")
        if sustained_seconds is None and device.ssh is not None:
            sustained_seconds = _BOARD_SECONDS
        sustained = session.sustained(after, sustained_seconds) if sustained_seconds else None
    return found.model_copy(update={"not_measured": (reason,) if reason else (), "sustained": sustained})


@dataclass(frozen=True)
class _Session:
    """The bench's tasks on one target, with the same rows and threads."""

    target: Target
    rows: Path
    threads: int
    min_seconds: float
    timeout_s: float

    def cold(self, file: BenchModel) -> dict[str, Any]:
        return self._run(self._spec("cold", (file,)), f"loading {Path(file.path).name}")

    def warm(self, files: tuple[BenchModel, ...]) -> dict[str, Any]:
        return self._run(self._spec("warm", files), f"timing {Path(files[-2].path).name}")

    def operators(self, file: BenchModel) -> tuple[list[dict[str, Any]], str]:
        """Time by operator, or why it was not measured."""
        spec = replace(self._spec("operators", (file,)), min_runs=_PROFILED_RUNS)
        try:
            return self._run(spec, "per-operator time")["operators"], ""
        except UnsupportedError as e:
            return [], str(e)

    def sustained(self, file: BenchModel, seconds: float) -> Sustained:
        spec = replace(self._spec("sustained", (file,)), min_seconds=seconds)
        windows = self.target.run(spec, f"heating with {Path(file.path).name}", self.timeout_s + seconds)["windows"]
        return Sustained(
            seconds=seconds,
            low_ms=tuple(window["low_ms"] for window in windows),
            temperature_c=tuple(window["temperature_c"] for window in windows if "temperature_c" in window),
        )

    def _spec(self, task: str, files: tuple[BenchModel, ...]) -> BenchSpec:
        return BenchSpec(task, files, str(self.rows), threads=self.threads, min_seconds=self.min_seconds)

    def _run(self, spec: BenchSpec, what: str) -> dict[str, Any]:
        return self.target.run(spec, what, self.timeout_s)


def performance_of(
    baseline: Exported, candidate: Exported, cold: Mapping[str, Any], warm: Mapping[str, Any], target: str
) -> Performance:
    """The bench's answers as typed figures; ``cold`` holds one answer per model, ``warm`` its series.

    Series are baseline, candidate, baseline again; or the baseline twice where the candidate is the same file.
    """
    series = warm["series"]
    again = statistics.latency_ratio(series[0]["block_ms"], series[-1]["block_ms"])
    same = len(series) == 2
    ratio = again if same else statistics.latency_ratio(series[0]["block_ms"], series[1]["block_ms"])
    verdict: Verdict = "no difference that this machine can show" if same else statistics.latency_verdict(ratio, again)
    return Performance(
        target=target,
        runtime=f"{warm['runtime']} {warm['version']}",
        baseline=_cost(baseline, cold["baseline"], series[0]),
        candidate=_cost(candidate, cold["baseline" if same else "candidate"], series[0 if same else 1]),
        ratio=Interval(value=1.0, low=again.low, high=again.high) if same else ratio,
        noise=again,
        verdict=verdict,
        environment=_environment(warm),
    )


def _environment(warm: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The machine, and its temperature, frequency and governor before and after, where it shows them."""
    said = {key: str(value) for key, value in warm["machine"].items()}
    for moment in ("before", "after"):
        said.update({f"{key} {moment}": str(value) for key, value in warm.get(moment, {}).items()})
    before, after = (warm.get(moment, {}).get("frequency_mhz") for moment in ("before", "after"))
    if before and after and after < _THROTTLED * before:
        said["throttled"] = f"yes: from {before:.0f} to {after:.0f} MHz"
    return tuple(said.items())


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
    names = own if set(own) == set(rows) else rows
    return BenchModel(str(exported.artifact.path), exported.artifact.format.value, tuple(names))


@lru_cache(maxsize=64)  # a baseline is measured beside each candidate
def _transfer_bytes(artifact: Artifact) -> int:
    return download_bytes(artifact.path)


def _cost(exported: Exported, cold: Mapping[str, Any], series: Mapping[str, Any]) -> Cost:
    return Cost(
        artifact=exported.artifact,
        download_bytes=_transfer_bytes(exported.artifact),
        latency=Latency(**{key: series[key] for key in Latency.model_fields}),
        load_ms=cold["load_ms"],
        first_ms=cold["first_ms"],
        peak_memory_mb=cold["peak_memory_mb"],
        added_memory_mb=cold["added_memory_mb"],
        memory_steps=tuple((moment, held) for moment, held in cold["memory_steps"]),
        operators=tuple(OperatorTime(**row) for row in cold.get("operators", ())),
    )

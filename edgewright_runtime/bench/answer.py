"""What the bench answers: a device writes it as JSON, and a workstation validates it by these same definitions.

A field without a default is in every answer. One with a default is left out where the machine does not show it, or
where the runtime that answers is older; what a newer one says beside these fields is ignored.

>>> answer_json(BenchAnswer(OutputFigures("onnxruntime", "1.20", rows=5), Machine(machine="aarch64")))
'{"runtime": "onnxruntime", "version": "1.20", "rows": 5, "machine": {"machine": "aarch64"}, "before": {}, "after": {}}'
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

__all__ = [
    "FIGURES",
    "BenchAnswer",
    "BenchFailure",
    "BenchFigures",
    "ColdFigures",
    "LatencySeries",
    "Machine",
    "MachineState",
    "MarkedFigures",
    "OperatorFigures",
    "OperatorTime",
    "OutputFigures",
    "SustainedFigures",
    "SustainedWindow",
    "WarmFigures",
    "answer_json",
]

F_co = TypeVar("F_co", covariant=True)


@dataclass(frozen=True)
class Machine:
    """The machine as it names itself; ``delegate`` is what a phone's benchmark_model ran the model by."""

    processor: str | None = None
    machine: str | None = None
    system: str | None = None
    python: str | None = None
    cores: int | None = None
    delegate: str | None = None


@dataclass(frozen=True)
class MachineState:
    """Temperature, frequency and governor at one moment."""

    temperature_c: float | None = None
    frequency_mhz: float | None = None
    governor: str | None = None


@dataclass(frozen=True)
class BenchFigures:
    """What every task of the runtime answers: which inference runtime ran the model."""

    runtime: str
    version: str

    @property
    def ran_by(self) -> str:
        """The inference runtime with its version."""
        return f"{self.runtime} {self.version}"


@dataclass(frozen=True)
class OutputFigures(BenchFigures):
    """Of ``outputs``: how many rows were answered."""

    rows: int


@dataclass(frozen=True)
class ColdFigures(BenchFigures):
    """Of ``cold``: milliseconds of load and first inference, MB (2^20 bytes) of memory; None where it is not shown.

    ``memory_steps`` is the resident memory after each step, ``added_memory_mb`` what the model added to its peak.
    """

    load_ms: float
    first_ms: float
    peak_memory_mb: float | None
    memory_steps: tuple[tuple[str, float], ...]
    added_memory_mb: float | None


@dataclass(frozen=True)
class LatencySeries:
    """Latencies of one model, milliseconds; p90 and p99 are None where the program that ran it prints none.

    ``block_ms`` is the lower quartile of each block by epoch, ``sample_ms`` an even choice of single runs.
    """

    p50_ms: float
    p90_ms: float | None
    p95_ms: float
    p99_ms: float | None
    mean_ms: float
    min_ms: float
    runs: int
    block_ms: tuple[tuple[float, ...], ...]
    sample_ms: tuple[float, ...]


@dataclass(frozen=True)
class WarmFigures(BenchFigures):
    """Of ``warm``: one series for each model, in the order of the specification."""

    series: tuple[LatencySeries, ...]


@dataclass(frozen=True)
class SustainedWindow:
    """A part of a sustained run: its lower-quartile latency, its runs, the temperature at its end."""

    low_ms: float
    runs: int
    temperature_c: float | None = None


@dataclass(frozen=True)
class SustainedFigures(BenchFigures):
    """Of ``sustained``: its windows, and joules of one inference by the named meter, where the machine has one."""

    windows: tuple[SustainedWindow, ...]
    joules: float | None = None
    meter: str | None = None

    def __post_init__(self) -> None:
        if (self.joules is None) != (self.meter is None):
            raise ValueError(f"joules = {self.joules} and meter = {self.meter!r}: both or neither are expected")


@dataclass(frozen=True)
class OperatorTime:
    """What all operators of one type take in one inference, microseconds, by the runtime's own profiler."""

    operator: str
    calls: int
    mean_us: float


@dataclass(frozen=True)
class OperatorFigures(BenchFigures):
    """Of ``operators``: the slowest types of operators, the slowest first."""

    operators: tuple[OperatorTime, ...]


@dataclass(frozen=True)
class MarkedFigures(BenchFigures):
    """Of ``marked``: how many inferences lie between marks."""

    runs: int


FIGURES: Mapping[str, type[BenchFigures]] = {
    "outputs": OutputFigures,
    "cold": ColdFigures,
    "warm": WarmFigures,
    "marked": MarkedFigures,
    "operators": OperatorFigures,
    "sustained": SustainedFigures,
}
"""What each task of the runtime answers with."""


@dataclass(frozen=True)
class BenchAnswer(Generic[F_co]):
    """The figures of one task, the machine that it ran on, and its state before and after."""

    figures: F_co
    machine: Machine
    before: MachineState = MachineState()
    after: MachineState = MachineState()


@dataclass(frozen=True)
class BenchFailure:
    """In the place of an answer: the class of the error and what it says."""

    type: str
    message: str


def answer_json(answer: BenchAnswer[Any] | BenchFailure) -> str:
    """An answer as the file that ``--out`` names: the figures stand beside the machine, an error stands alone."""
    if isinstance(answer, BenchFailure):
        return json.dumps({"error": _as_json(answer)})
    around = _as_json(answer)
    return json.dumps({**around.pop("figures"), **around})


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    if not is_dataclass(value):
        return value
    held = {field: getattr(value, field.name) for field in fields(value)}
    # A field that no answer lacks is written as null; one with a default is left out.
    return {field.name: _as_json(v) for field, v in held.items() if v is not None or field.default is not None}

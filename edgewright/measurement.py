"""What was measured, and what it is judged against. No ML framework is imported here."""

from dataclasses import dataclass
from typing import Literal

from edgewright.artifact import Artifact
from edgewright.profile import Budget
from edgewright.value import Value
from edgewright_runtime.bench.answer import OperatorTime

__all__ = [
    "Accuracy",
    "AccuracyDrop",
    "Benefit",
    "BudgetLine",
    "ClassAccuracy",
    "ComputePlan",
    "Cost",
    "Emulation",
    "Energy",
    "Evaluation",
    "Footprint",
    "Instructions",
    "Interval",
    "Latency",
    "LedgerEntry",
    "Measurement",
    "OutputParity",
    "Parity",
    "Performance",
    "PlannedOperator",
    "Sustained",
    "ValidationReport",
    "Verdict",
]

Verdict = Literal["faster", "slower", "no difference that this machine can show", "not measured"]


class Interval(Value):
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


class Accuracy(Value):
    """A metric on test rows that neither training nor calibration saw, with its 95% interval.

    ``accuracy`` in 0-1 (Wilson interval) for classifiers, ``r2`` for regressors, ``fidelity`` where there are no
    answers, or the name of a user's own metric (bootstrap intervals).
    """

    metric: str
    value: float
    low: float
    high: float
    rows: int


class AccuracyDrop(Value):
    """What a model loses against its source on the same rows, in ``unit``: percentage points (of R², of fidelity).

    Positive is worse. ``p_value`` is that of no difference, by ``test``; for a classifier the rows that only one
    of the two has right are all that the test rests on.
    """

    percent: float
    low_percent: float
    high_percent: float
    p_value: float
    test: str
    unit: str = "percentage points"
    only_source_right: int | None = None
    only_candidate_right: int | None = None


class ClassAccuracy(Value):
    """The share (0-1) of one class's rows that the source and the exported model get right."""

    label: str
    rows: int
    source: float
    candidate: float

    @property
    def drop_percent(self) -> float:
        """What the exported model loses against the source on this class's rows, percentage points."""
        return 100 * (self.source - self.candidate)


class Latency(Value):
    """Warm latency of one inference at batch 1, milliseconds; ``sample_ms`` is an even choice of single runs.

    p90 and p99 are None where the target's own program does not print them.
    """

    p50_ms: float
    p90_ms: float | None = None
    p95_ms: float
    p99_ms: float | None = None
    mean_ms: float
    min_ms: float
    runs: int
    sample_ms: tuple[float, ...] = ()


class Footprint(Value):
    """What a model file weighs: on disk, as it is sent, and how its stored numbers are coded there.

    ``weights`` are the numbers in the file's tensors of eight elements and more, ``non_zero`` those whose stored value
    is not zero; ``codebook_bytes`` and ``index_bytes`` are parts of the ``.ewz``, its rest is the file's skeleton.
    """

    size_bytes: int
    download_bytes: int
    weights: int
    non_zero: int
    codebook_bytes: int
    index_bytes: int

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of the download for each stored number; None for a file without tensors."""
        return 8 * self.download_bytes / self.weights if self.weights else None

    @property
    def non_zero_fraction(self) -> float | None:
        """Share of the stored numbers that are not zero, 0-1."""
        return self.non_zero / self.weights if self.weights else None


class LedgerEntry(Value):
    """What the model was after one technique; accuracy is on validation rows, which choose what is kept.

    The float32 baseline comes first. What was left out has an entry too; the next technique starts from before it.
    """

    stage: str
    kept: bool
    footprint: Footprint
    accuracy: Accuracy | None
    latency: Latency | None


class OutputParity(Value):
    """One output against the source's own: fidelity (R² against the source's answers), cosine similarity over all rows,
    largest difference, that over the largest magnitude, and how often the largest along the last axis (0-1) agrees.
    """

    name: str
    fidelity: float
    cosine: float | None
    max_absolute: float
    max_relative: float | None
    agreement: float | None


class Parity(Value):
    """How far a model's outputs are from the source model's own, run in its own framework, on the same rows.

    ``max_relative`` is the largest difference over the largest magnitude of the source's outputs.
    ``agreement`` (0-1) is the share of rows with the same predicted class.
    ``checked_by`` names what ran the exported file; None means that it was not run, so nothing is claimed. ``outputs``
    are the same for each output.
    """

    checked_by: str | None
    rows: int = 0
    max_absolute: float | None = None
    mean_absolute: float | None = None
    max_relative: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    disagreements: int | None = None
    explanation: str = ""
    outputs: tuple[OutputParity, ...] = ()


class Evaluation(Value):
    """How right an exported file is: run over every test row in its own runtime, beside its source's answers."""

    artifact: Artifact
    source_accuracy: Accuracy
    accuracy: Accuracy | None
    drop: AccuracyDrop | None
    parity: Parity
    per_class: tuple[ClassAccuracy, ...] = ()
    not_measured: tuple[str, ...] = ()


class Instructions(Value):
    """Executed A64 instructions of one warm inference on an emulated core, by class; never a time."""

    core: str
    integer: int
    simd: int
    load_store: int
    branch: int

    @property
    def total(self) -> int:
        """All classes."""
        return self.integer + self.simd + self.load_store + self.branch


class Emulation(Value):
    """One file on one emulated core: largest difference from this machine's outputs, relative to their magnitude.

    A whole emulated device has ``device_memory_mb`` of memory, and ``peak_memory_mb`` is what the process took of it.

    ``failure`` says why it does not run there (an illegal instruction, a missing operator); empty where it does.
    """

    core: str
    failure: str = ""
    rows: int = 0
    max_relative: float | None = None
    instructions: Instructions | None = None
    device_memory_mb: int | None = None
    peak_memory_mb: float | None = None


class Cost(Value):
    """What one model file costs on a target; None where it was not measured.

    Memory in MB (2^20 bytes): ``peak_memory_mb`` of the whole process, ``added_memory_mb`` what loading and running
    the model added to it after the runtime itself was imported. ``load_ms`` and ``first_ms`` are those of a fresh
    process. ``download_bytes`` is the transfer form, ``.ewz`` or xz. ``memory_steps`` is the resident memory after each
    step, MB. ``one_thread`` is the latency with one thread, where the profile's own number is another.
    """

    artifact: Artifact
    download_bytes: int
    latency: Latency | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    peak_memory_mb: float | None = None
    added_memory_mb: float | None = None
    memory_steps: tuple[tuple[str, float], ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    one_thread: Latency | None = None


class Energy(Value):
    """What one inference uses, joules; ``source`` names the meter, or what the estimate rests on."""

    joules: float
    source: str
    estimated: bool = False


@dataclass(frozen=True)
class PlannedOperator:
    """One operator of a compute plan: its device there, and its estimated share of the work, 0-1."""

    operator: str
    result: str
    device: str
    share: float


@dataclass(frozen=True)
class ComputePlan:
    """Core ML's compute plan: which unit runs each operator, by its own estimate, before anything ran; never a time.

    A dataclass, as all that the bench answers: `edgewright.validate.core_ml_bench` does on a Mac.

    ``units`` is what it was allowed to use, ``devices`` the number of operators by the device that it prefers (CPU,
    GPU, Neural Engine), ``unplanned`` the operators of which it says nothing, constants left out.
    """

    units: str
    devices: tuple[tuple[str, int], ...]
    unplanned: int
    costliest: tuple[PlannedOperator, ...]


class Sustained(Value):
    """The candidate under sustained load: what heat does to it on this target.

    ``low_ms`` is the lower-quartile latency of each window of ``seconds`` / 10; ``temperature_c`` is that at its end.
    """

    seconds: float
    low_ms: tuple[float, ...]
    temperature_c: tuple[float, ...] = ()
    energy: Energy | None = None

    @property
    def drift(self) -> float:
        """Latency of the last window over that of the first."""
        return self.low_ms[-1] / self.low_ms[0]


class Performance(Value):
    """Candidate beside baseline on one target, timed interleaved in one process.

    ``ratio`` is candidate over baseline of the lower-quartile latency, which a busy machine moves least; ``noise`` the
    same for the baseline against a second copy of itself, in the same run: what this machine shows where nothing
    differs.
    """

    target: str
    runtime: str
    baseline: Cost
    candidate: Cost
    ratio: Interval | None
    noise: Interval | None
    verdict: Verdict
    not_measured: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    sustained: Sustained | None = None
    compute_plan: ComputePlan | None = None

    @property
    def noise_percent(self) -> float | None:
        """How far the baseline was from a second copy of itself, percent."""
        return None if self.noise is None else 100 * abs(self.noise.value - 1)


class Measurement(Value):
    """One model file on one target; None where nothing was measured, with the reason in ``not_measured``."""

    artifact: Artifact
    target: str
    accuracy: Accuracy | None
    parity: Parity
    latency: Latency | None
    load_ms: float | None
    first_ms: float | None
    peak_memory_mb: float | None
    added_memory_mb: float | None = None
    noise_percent: float | None
    download_bytes: int
    not_measured: tuple[str, ...] = ()
    memory_steps: tuple[tuple[str, float], ...] = ()
    operators: tuple[OperatorTime, ...] = ()
    one_thread: Latency | None = None


class BudgetLine(Value):
    """One limit and the figure it is held against, both in ``unit``."""

    figure: str
    limit: float
    measured: float | None
    unit: str
    status: Literal["met", "missed", "not measured"]

    @property
    def margin(self) -> float | None:
        """What is left below the limit, in its unit; negative where it is missed."""
        return None if self.measured is None else self.limit - self.measured

    def sentence(self) -> str:
        """The line in words: which figure, which limit, by how much."""
        if self.measured is None:
            return f"{self.figure}: not measured, limit {self.limit:.4g} {self.unit}"
        subject = f"{self.figure} {self.measured:.4g} {self.unit}"
        if self.status == "missed":
            return f"{subject} misses its limit of {self.limit:.4g} {self.unit} by {self.measured - self.limit:.3g}"
        return f"{subject} is within its limit of {self.limit:.4g} {self.unit}"


class Benefit(Value):
    """Whether a technique was worth it, and why; ratios are candidate over baseline."""

    useful: bool
    cause: str
    size_ratio: float
    download_ratio: float
    latency_ratio: Interval | None


class ValidationReport(Value):
    """The verdict on a candidate: what it is, what it cost, what its baseline cost, and every limit.

    ``warnings`` are doubts about the source model itself: a release is stopped by them unless it is asked for.
    """

    source_accuracy: Accuracy | None
    baseline: Measurement
    candidate: Measurement
    accuracy_drop_percent: float | None
    drop_low_percent: float | None
    drop_high_percent: float | None
    drop_p_value: float | None
    latency_ratio: float | None
    latency_ratio_low: float | None
    latency_ratio_high: float | None
    latency_verdict: str
    budget: Budget
    lines: tuple[BudgetLine, ...]
    passed: bool
    notes: tuple[str, ...] = ()
    drop_test: str = ""
    drop_unit: str = "percentage points"
    per_class: tuple[ClassAccuracy, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    emulations: tuple[Emulation, ...] = ()
    sustained: Sustained | None = None
    energy: Energy | None = None
    compute_plan: ComputePlan | None = None
    warnings: tuple[str, ...] = ()

    @property
    def violations(self) -> tuple[BudgetLine, ...]:
        """The limits that were missed."""
        return tuple(line for line in self.lines if line.status == "missed")

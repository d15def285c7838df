"""What was measured, and what it is judged against. No ML framework is imported here."""

from typing import Literal

from edgewright.artifact import Artifact, Value
from edgewright.profile import Budget

__all__ = [
    "Accuracy",
    "BudgetLine",
    "Latency",
    "Measurement",
    "Parity",
    "ValidationReport",
]


class Accuracy(Value):
    """A metric on test rows that neither training nor calibration saw, with its 95% interval.

    ``accuracy`` in 0-1 (Wilson interval) for classifiers, ``r2`` (bootstrap interval) for regressors.
    """

    metric: Literal["accuracy", "r2"]
    value: float
    low: float
    high: float
    rows: int


class Latency(Value):
    """Warm latency of one inference at batch 1, milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    runs: int


class Parity(Value):
    """How far a model's outputs are from the source model's own, run in its own framework, on the same rows.

    ``max_relative`` is the largest difference over the largest magnitude of the source's outputs.
    ``checked_by`` names what ran the exported file; None means that it was not run, so nothing is claimed.
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
    noise_percent: float | None
    download_bytes: int
    not_measured: tuple[str, ...] = ()


class BudgetLine(Value):
    """One limit and the figure it is held against."""

    figure: str
    limit: float
    measured: float | None
    unit: str
    status: Literal["met", "missed", "not measured"]


class ValidationReport(Value):
    """The verdict on a candidate: what it is, what it cost, what its baseline cost, and every limit."""

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

    @property
    def violations(self) -> tuple[BudgetLine, ...]:
        """The limits that were missed."""
        return tuple(line for line in self.lines if line.status == "missed")

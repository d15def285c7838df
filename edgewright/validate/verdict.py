"""Holds what was measured against what is allowed. Pure: figures in, verdict out."""

from dataclasses import replace

from edgewright.measurement import (
    Benefit,
    BudgetLine,
    Cost,
    Emulation,
    Energy,
    Evaluation,
    Measurement,
    Performance,
    ValidationReport,
)
from edgewright.profile import Budget
from edgewright.statistics.accuracy import worst_class

__all__ = ["accuracy_fault", "benefit", "budget_lines", "judge", "measurement_of"]

_MB = 1 << 20
# A file that is smaller by less than this share is not "smaller": names and padding alone move it that far.
_MIN_SAVING = 0.01
_SIGNIFICANT = 0.05


def judge(
    baseline: Evaluation,
    candidate: Evaluation,
    performance: Performance,
    budget: Budget,
    max_accuracy_drop_percent: float,
    emulations: tuple[Emulation, ...] = (),
    notes: tuple[str, ...] = (),
    energy: Energy | None = None,
    warnings: tuple[str, ...] = (),
) -> ValidationReport:
    """Every limit met, missed or not measured. The accuracy limit is the budget's where it has one, else the recipe's.

    A limit is held against the figure itself; whether a drop is more than chance stands beside it, as the paired
    test's interval and p value. A limit whose figure was not measured is not missed, and never said to be met. An
    emulated core on which the candidate does not run is a limit of no failures, missed. ``warnings`` are of the source
    model, see `source_check`.
    """
    limit = budget.max_accuracy_drop_percent or max_accuracy_drop_percent
    measured = measurement_of(candidate, performance, of_baseline=False)
    lines = (*_lines(measured, candidate, budget, limit), *(_emulated_line(emulation) for emulation in emulations))
    drop, ratio = candidate.drop, performance.ratio
    return ValidationReport(
        source_accuracy=candidate.source_accuracy,
        baseline=measurement_of(baseline, performance, of_baseline=True),
        candidate=measured,
        accuracy_drop_percent=drop.percent if drop else None,
        drop_low_percent=drop.low_percent if drop else None,
        drop_high_percent=drop.high_percent if drop else None,
        drop_p_value=drop.p_value if drop else None,
        drop_test=drop.test if drop else "",
        drop_unit=drop.unit if drop else "percentage points",
        latency_ratio=ratio.value if ratio else None,
        latency_ratio_low=ratio.low if ratio else None,
        latency_ratio_high=ratio.high if ratio else None,
        latency_verdict=performance.verdict,
        budget=replace(budget, max_accuracy_drop_percent=limit),
        lines=lines,
        passed=all(line.status != "missed" for line in lines),
        notes=(*_notes(candidate, lines, limit), *(f"{e.core}: {e.failure}" for e in emulations if e.failure), *notes),
        per_class=candidate.per_class,
        environment=performance.environment,
        emulations=emulations,
        sustained=performance.sustained,
        energy=energy,
        compute_plan=performance.compute_plan,
        warnings=warnings,
    )


def measurement_of(evaluation: Evaluation, performance: Performance, *, of_baseline: bool) -> Measurement:
    """What is known of one file: how right it is and what it costs."""
    cost: Cost = performance.baseline if of_baseline else performance.candidate
    return Measurement(
        artifact=cost.artifact,
        target=performance.target,
        accuracy=evaluation.accuracy,
        parity=evaluation.parity,
        latency=cost.latency,
        load_ms=cost.load_ms,
        first_ms=cost.first_ms,
        peak_memory_mb=cost.peak_memory_mb,
        added_memory_mb=cost.added_memory_mb,
        noise_percent=performance.noise_percent,
        download_bytes=cost.download_bytes,
        memory_steps=cost.memory_steps,
        operators=cost.operators,
        one_thread=cost.one_thread,
        not_measured=(*evaluation.not_measured, *performance.not_measured),
    )


def benefit(
    baseline: Evaluation,
    candidate: Evaluation,
    performance: Performance,
    max_drop_percent: float,
    max_class_drop_percent: float | None = None,
    causes: tuple[str, ...] = (),
    max_size_mb: float | None = None,
) -> Benefit:
    """Whether the candidate is worth having instead of the baseline; ``causes`` say why it brings no more.

    No benefit where it is neither smaller (on disk or as a download) nor faster, where its accuracy is worse than
    allowed by more than chance: the paired test rejects no loss, and the loss exceeds the limit; or where it grows
    beyond ``max_size_mb``. A file that grows within that limit, or without one, is said to.
    """
    before, after = performance.baseline, performance.candidate
    size_ratio = after.artifact.size_bytes / before.artifact.size_bytes
    download_ratio = after.download_bytes / before.download_bytes
    gains = [
        phrase
        for phrase, gained in (
            (f"{_saving(size_ratio)} smaller on disk", size_ratio <= 1 - _MIN_SAVING),
            (f"{_saving(download_ratio)} smaller to download", download_ratio <= 1 - _MIN_SAVING),
            ("faster", performance.verdict == "faster"),
        )
        if gained
    ]
    # The first reason is told: a model that is wrong needs no word on its size.
    cause = (
        accuracy_fault(baseline, candidate, max_drop_percent)
        or _class_fault(candidate, max_class_drop_percent)
        or _size_fault(before, after, max_size_mb)
    )
    useful = not cause and bool(gains)
    why = "".join(f"; {phrase}" for phrase in (*_growth(before, after), *causes))
    return Benefit(
        useful=useful,
        cause=(", ".join(gains) if useful else cause or _no_gain(size_ratio, download_ratio, performance)) + why,
        size_ratio=size_ratio,
        download_ratio=download_ratio,
        latency_ratio=performance.ratio,
    )


def accuracy_fault(baseline: Evaluation, candidate: Evaluation, limit: float) -> str:
    """Why the candidate's accuracy is not allowed: a loss above the limit that is more than chance; empty if it is."""
    drop = candidate.drop
    if drop is None or drop.percent <= limit or drop.p_value >= _SIGNIFICANT:
        return ""
    inherited = baseline.drop is not None and baseline.drop.percent >= drop.percent
    where = " (the baseline loses as much)" if inherited else ""
    return (
        f"accuracy falls by {drop.percent:.2f} {drop.unit} (95% {drop.low_percent:.2f} to "
        f"{drop.high_percent:.2f}, p = {drop.p_value:.2g}), allowed is {limit:g}{where}"
    )


def _class_fault(candidate: Evaluation, limit: float | None) -> str:
    worst = worst_class(candidate.per_class)
    if worst is None or limit is None or worst.drop_percent <= limit:
        return ""
    return (
        f"class '{worst.label}' loses {worst.drop_percent:.2f} percentage points on its {worst.rows} rows, "
        f"allowed is {limit:g}"
    )


def _size_fault(before: Cost, after: Cost, limit_mb: float | None) -> str:
    """A file that was too large before is not the technique's fault, as long as it grows no further."""
    size = after.artifact.size_bytes
    if limit_mb is None or size <= before.artifact.size_bytes or size <= limit_mb * _MB:
        return ""
    return f"grows beyond {limit_mb:g} MB on disk"


def _growth(before: Cost, after: Cost) -> list[str]:
    """All sizes, where one of them grew."""
    sizes = {
        "on disk": (before.artifact.size_bytes, after.artifact.size_bytes),
        "to download": (before.download_bytes, after.download_bytes),
    }
    if all(new <= old * (1 + _MIN_SAVING) for old, new in sizes.values()):
        return []
    growths = (f"{name} {new / old - 1:+.0%} ({old:,} B, then {new:,} B)" for name, (old, new) in sizes.items())
    return [f"it grew: {', '.join(growths)}"]


def _no_gain(size_ratio: float, download_ratio: float, performance: Performance) -> str:
    speed = f"latency: {performance.verdict}"
    if performance.ratio:
        speed += (
            f" (ratio {performance.ratio.value:.2f}, 95% {performance.ratio.low:.2f} to {performance.ratio.high:.2f})"
        )
    return f"neither smaller (disk x{size_ratio:.3f}, download x{download_ratio:.3f}) nor faster ({speed})"


def _saving(ratio: float) -> str:
    return f"{100 * (1 - ratio):.0f}%"


def _lines(measured: Measurement, candidate: Evaluation, budget: Budget, drop_limit: float) -> tuple[BudgetLine, ...]:
    worst = worst_class(candidate.per_class)
    held = (
        (
            "accuracy drop",
            drop_limit,
            candidate.drop.percent if candidate.drop else None,
            candidate.drop.unit if candidate.drop else "percentage points",
        ),
        (
            f"worst class drop ({worst.label})" if worst else "worst class drop",
            budget.max_class_drop_percent,
            worst.drop_percent if worst else None,
            "percentage points",
        ),
    )
    judged = (_line(figure, limit, value, unit) for figure, limit, value, unit in held if limit is not None)
    return (*budget_lines(measured, budget), *judged)


def budget_lines(cost: Cost | Measurement, budget: Budget) -> tuple[BudgetLine, ...]:
    """What a file costs against the limits of latency, memory and size that there are."""
    held = (
        ("p95 latency", budget.max_latency_ms, cost.latency.p95_ms if cost.latency else None, "ms"),
        ("added memory", budget.max_memory_mb, cost.added_memory_mb, "MB"),
        ("size on disk", budget.max_size_mb, cost.artifact.size_bytes / _MB, "MB"),
    )
    return tuple(_line(figure, limit, value, unit) for figure, limit, value, unit in held if limit is not None)


def _emulated_line(emulation: Emulation) -> BudgetLine:
    failures = 1 if emulation.failure else 0
    return BudgetLine(
        figure=f"emulated {emulation.core}",
        limit=0,
        measured=failures,
        unit="failures",
        status="missed" if failures else "met",
    )


def _line(figure: str, limit: float, value: float | None, unit: str) -> BudgetLine:
    if value is None:
        return BudgetLine(figure=figure, limit=limit, measured=None, unit=unit, status="not measured")
    status = "met" if value <= limit else "missed"
    return BudgetLine(figure=figure, limit=limit, measured=value, unit=unit, status=status)


def _notes(candidate: Evaluation, lines: tuple[BudgetLine, ...], limit: float) -> tuple[str, ...]:
    drop, notes = candidate.drop, []
    if drop and drop.percent > limit and drop.p_value >= _SIGNIFICANT:
        notes.append(
            f"the accuracy drop exceeds its limit, but these {candidate.parity.rows} rows cannot tell it from chance "
            f"(p = {drop.p_value:.2g}): more test rows would"
        )
    notes += [line.sentence() for line in lines if line.status == "not measured"]
    return tuple(notes)

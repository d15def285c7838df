"""A validation report as a table and as Markdown, for people."""

from collections.abc import Sequence

from edgewright.measurement import (
    Accuracy,
    ComputePlan,
    Emulation,
    Energy,
    Latency,
    LedgerEntry,
    Measurement,
    ValidationReport,
)
from edgewright.plain_text import markdown_text
from edgewright.validate.ledger import LEDGER_HEADS, ledger_rows

__all__ = ["budget_rows", "report_markdown"]


def budget_rows(report: ValidationReport) -> list[dict[str, str]]:
    """One row a limit: figure, limit, measured, margin, status."""
    return [
        {
            "figure": line.figure,
            "limit": f"{line.limit:g} {line.unit}",
            "measured": "not measured" if line.measured is None else f"{line.measured:.4g} {line.unit}",
            "margin": "" if line.margin is None else f"{line.margin:.4g} {line.unit}",
            "status": line.status,
        }
        for line in report.lines
    ]


def report_markdown(report: ValidationReport, model: str, device: str, ledger: Sequence[LedgerEntry] = ()) -> str:
    """The verdict first, then limits, then the figures of baseline and candidate, then what was not measured."""
    verdict = "passed" if report.passed else "failed: " + "; ".join(line.sentence() for line in report.violations)
    rows = [f"| {' | '.join(markdown_text(cell) for cell in row.values())} |" for row in budget_rows(report)]
    figures = [
        f"| {name} | {before} | {after} |"
        for (name, before), (_, after) in zip(_figures(report.baseline), _figures(report.candidate), strict=True)
        if before or after
    ]
    unknown = report.candidate.not_measured
    lines = [
        f"# {markdown_text(f'{model} on {device}: {verdict}')}",
        "",
        *(f"**Warning:** {markdown_text(said)}\n" for said in report.warnings),
        *("| figure | limit | measured | margin | status |", "|---|---|---|---|---|", *rows, ""),
        *("| figure | float32 baseline | candidate |", "|---|---|---|", *figures, ""),
        *_ledger(ledger),
        f"Source model: {_accuracy(report.source_accuracy)}. Latency: {report.latency_verdict}.",
        *(f"- {_emulated(found)}" for found in report.emulations if not found.failure),
        *([f"- {_energy(report.energy)}"] if report.energy else []),
        *([f"- {_planned(report.compute_plan)}"] if report.compute_plan else []),
        *(f"- not measured: {markdown_text(reason)}" for reason in unknown),
        *(f"- {markdown_text(note)}" for note in report.notes),
    ]
    return "\n".join(lines) + "\n"


def _emulated(found: Emulation) -> str:
    said = f"emulated {found.core}: runs, largest difference {found.max_relative or 0:.2g} of the largest output"
    if found.instructions is not None:
        said += f", {found.instructions.total:,} instructions an inference"
    if found.peak_memory_mb is not None:
        said += f", {found.peak_memory_mb:.0f} MB of {found.device_memory_mb} MB"
    return said


def _energy(found: Energy) -> str:
    kind = "estimated from" if found.estimated else "measured by"
    return f"energy of one inference: {1000 * found.joules:.3g} mJ, {kind} {found.source}"


def _planned(plan: ComputePlan) -> str:
    devices = ", ".join(f"{device} for {count:,}" for device, count in plan.devices)
    return f"Core ML's own plan, operators by the device it prefers: {devices}; allowed were {plan.units}"


def _ledger(entries: Sequence[LedgerEntry]) -> list[str]:
    if not entries:
        return []
    lines = [LEDGER_HEADS, ("---",) * len(LEDGER_HEADS), *ledger_rows(entries)]
    return [*(f"| {' | '.join(markdown_text(cell) for cell in line)} |" for line in lines), ""]


def _figures(measured: Measurement) -> list[tuple[str, str]]:
    latency = measured.latency
    return [
        ("size on disk", f"{measured.artifact.size_bytes:,} B"),
        ("download", f"{measured.download_bytes:,} B"),
        ("accuracy", _accuracy(measured.accuracy)),
        (
            "latency p50 / p95 (/ p99)",
            _joined(_percentiles(latency), "ms"),
        ),
        ("latency p50 / p95 (/ p99), one thread", _one_thread(measured)),
        ("load", _joined((measured.load_ms,), "ms")),
        ("peak memory", _joined((measured.peak_memory_mb,), "MB")),
        ("largest difference from the source", _joined((measured.parity.max_absolute,), "")),
    ]


def _one_thread(measured: Measurement) -> str:
    """Empty where the profile's own number of threads is one: then it is the line above."""
    return "" if measured.one_thread is None else _joined(_percentiles(measured.one_thread), "ms")


def _percentiles(latency: Latency | None) -> tuple[float | None, ...]:
    if latency is None:
        return (None,)
    return (latency.p50_ms, latency.p95_ms, *([latency.p99_ms] if latency.p99_ms is not None else []))


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "not measured"
    return (
        f"{accuracy.metric} {accuracy.value:.4f} (95% {accuracy.low:.4f} to {accuracy.high:.4f}, {accuracy.rows} rows)"
    )


def _joined(values: tuple[float | None, ...], unit: str) -> str:
    if any(v is None for v in values):
        return "not measured"
    return " / ".join(f"{v:.4g}" for v in values) + f" {unit}"

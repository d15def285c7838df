"""A validation report as a table and as Markdown, for people."""

from collections.abc import Sequence

from edgewright.measurement import ComputePlan, Emulation, Energy, LedgerEntry, ValidationReport
from edgewright.plain_text import markdown_text
from edgewright.report.figures import FIGURES, accuracy_text, budget_rows, emulated_memory_text, energy_text
from edgewright.report.ledger import LEDGER_HEADS, ledger_rows

__all__ = ["report_markdown"]


def report_markdown(report: ValidationReport, model: str, device: str, ledger: Sequence[LedgerEntry] = ()) -> str:
    """The verdict first, then limits, then the figures of baseline and candidate, then what was not measured."""
    verdict = "passed" if report.passed else "failed: " + "; ".join(line.sentence() for line in report.violations)
    rows = [f"| {' | '.join(markdown_text(cell) for cell in row.values())} |" for row in budget_rows(report)]
    # A figure that neither file has stands below, as not measured.
    figures = [
        f"| {figure.title} | {figure.text(report.baseline)} | {figure.text(report.candidate)} |"
        for figure in FIGURES
        if any(figure.value(measured) is not None for measured in (report.baseline, report.candidate))
    ]
    unknown = report.candidate.not_measured
    lines = [
        f"# {markdown_text(f'{model} on {device}: {verdict}')}",
        "",
        *(f"**Warning:** {markdown_text(warning)}\n" for warning in report.warnings),
        *("| figure | limit | measured | margin | status |", "|---|---|---|---|---|", *rows, ""),
        *("| figure | float32 baseline | candidate |", "|---|---|---|", *figures, ""),
        *_ledger(ledger),
        f"Source model: {accuracy_text(report.source_accuracy)}. Latency: {report.latency_verdict}.",
        *(f"- {_emulated(emulation)}" for emulation in report.emulations if not emulation.failure),
        *([f"- {_energy(report.energy)}"] if report.energy else []),
        *([f"- {_planned(report.compute_plan)}"] if report.compute_plan else []),
        *(f"- not measured: {markdown_text(reason)}" for reason in unknown),
        *(f"- {markdown_text(note)}" for note in report.notes),
    ]
    return "\n".join(lines) + "\n"


def _emulated(emulation: Emulation) -> str:
    summary = (
        f"emulated {emulation.core}: runs, largest difference {emulation.max_relative or 0:.2g} of the largest output"
    )
    if emulation.instructions is not None:
        summary += f", {emulation.instructions.total:,} instructions an inference"
    memory = emulated_memory_text(emulation)
    return f"{summary}, {memory}" if memory else summary


def _energy(energy: Energy) -> str:
    kind = "estimated from" if energy.estimated else "measured by"
    return f"energy of one inference: {energy_text(energy)}, {kind} {energy.source}"


def _planned(plan: ComputePlan) -> str:
    devices = ", ".join(f"{device} for {count:,}" for device, count in plan.devices)
    return f"Core ML's own plan, operators by the device it prefers: {devices}; allowed were {plan.units}"


def _ledger(entries: Sequence[LedgerEntry]) -> list[str]:
    if not entries:
        return []
    lines = [LEDGER_HEADS, ("---",) * len(LEDGER_HEADS), *ledger_rows(entries)]
    return [*(f"| {' | '.join(markdown_text(cell) for cell in line)} |" for line in lines), ""]

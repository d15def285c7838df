"""A validation report as a table and as Markdown, for people."""

from collections.abc import Sequence

from edgewright.measurement import Accuracy, Latency, LedgerEntry, Measurement, ValidationReport
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
    rows = [f"| {' | '.join(row.values())} |" for row in budget_rows(report)]
    figures = [
        f"| {name} | {before} | {after} |"
        for (name, before), (_, after) in zip(_figures(report.baseline), _figures(report.candidate), strict=True)
    ]
    unknown = report.candidate.not_measured
    lines = [
        f"# {model} on {device}: {verdict}",
        "",
        *("| figure | limit | measured | margin | status |", "|---|---|---|---|---|", *rows, ""),
        *("| figure | float32 baseline | candidate |", "|---|---|---|", *figures, ""),
        *_ledger(ledger),
        f"Source model: {_accuracy(report.source_accuracy)}. Latency: {report.latency_verdict}.",
        *(f"- not measured: {reason}" for reason in unknown),
        *(f"- {note}" for note in report.notes),
    ]
    return "\n".join(lines) + "\n"


def _ledger(entries: Sequence[LedgerEntry]) -> list[str]:
    if not entries:
        return []
    lines = [LEDGER_HEADS, ("---",) * len(LEDGER_HEADS), *ledger_rows(entries)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


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
        ("load", _joined((measured.load_ms,), "ms")),
        ("peak memory", _joined((measured.peak_memory_mb,), "MB")),
        ("largest difference from the source", _joined((measured.parity.max_absolute,), "")),
    ]


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

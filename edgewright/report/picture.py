"""A validation report as a picture: what each step weighs, and how fast baseline and candidate are."""

from collections.abc import Sequence

from edgewright.measurement import LedgerEntry, ValidationReport
from edgewright.report import charts
from edgewright.report.figures import percentiles
from edgewright.report.ledger import ledger_falls

__all__ = ["report_svg"]


def report_svg(report: ValidationReport, sizes: Sequence[tuple[str, int]], ledger: Sequence[LedgerEntry]) -> bytes:
    """Bytes on disk after each step, what each took off the download, latency of baseline and candidate.

    ``sizes`` and ``ledger`` are those of the page.
    """
    disk = [(name, size / 1000, "baseline" if i == 0 else "candidate") for i, (name, size) in enumerate(sizes)]
    falls = [(name, before / 1000, after / 1000, is_kept) for name, before, after, is_kept in ledger_falls(ledger)]
    files = {"float32": report.baseline, "candidate": report.candidate}
    # The baseline is what is released: drawn once.
    if report.baseline.artifact.digest == report.candidate.artifact.digest:
        del files["float32"]
    samples = [
        (
            f"{name}: p50 / p95 {percentiles(measured.latency)}",
            measured.latency.sample_ms,
            "candidate" if name == "candidate" else "baseline",
        )
        for name, measured in files.items()
        if measured.latency is not None
    ]
    return charts.picture(
        [
            charts.bars(disk, "kB", "Size on disk"),
            charts.waterfall(falls, "kB", "Download after each technique"),
            charts.distribution(samples, "ms", "Latency of one inference"),
        ]
    )

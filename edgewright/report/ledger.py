"""The stage ledger: what each technique left of the model, byte by byte, for a table and a waterfall."""

import csv
import io
from collections.abc import Sequence

from edgewright.measurement import Cost, Evaluation, Footprint, LedgerEntry
from edgewright.report.figures import accuracy_text, formatted

__all__ = ["LEDGER_HEADS", "ledger_csv", "ledger_entry", "ledger_falls", "ledger_metrics", "ledger_rows"]

LEDGER_HEADS = (
    "after",
    "on disk, B",
    "download, B",
    "bits per weight",
    "not zero",
    "codebooks, B",
    "indices, B",
    "accuracy, validation rows (95%)",
    "p50, ms",
)


def ledger_entry(
    stage: str, weight: Footprint, evaluation: Evaluation | None, cost: Cost | None, *, is_kept: bool
) -> LedgerEntry:
    """What was measured of one exported file, under the name of the technique that made it."""
    accuracy, latency = evaluation and evaluation.accuracy, cost and cost.latency
    return LedgerEntry(stage=stage, kept=is_kept, footprint=weight, accuracy=accuracy, latency=latency)


def ledger_rows(entries: Sequence[LedgerEntry]) -> list[tuple[str, ...]]:
    """One row of text for each entry, under `LEDGER_HEADS`."""
    return [_row(entry) for entry in entries]


def ledger_csv(entries: Sequence[LedgerEntry]) -> bytes:
    """The entries' figures as a table, one line each, for other programs."""
    figures = [ledger_metrics(entry) for entry in entries]
    # An entry lacks what was not measured of it: the columns are those of all entries, in order.
    names = list(dict.fromkeys(name for row in figures for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["stage", "kept", *names], lineterminator="\n")
    writer.writeheader()
    for entry, row in zip(entries, figures, strict=True):
        writer.writerow({"stage": entry.stage, "kept": entry.kept, **row})
    return text.getvalue().encode()


def ledger_falls(entries: Sequence[LedgerEntry]) -> list[tuple[str, float, float, bool]]:
    """(stage, download before it, download after it, kept) in bytes; what was left out lowers nothing after it."""
    falls: list[tuple[str, float, float, bool]] = []
    before = 0
    for entry in entries:
        falls.append((_name(entry), before, entry.footprint.download_bytes, entry.kept))
        # The next step began from what was kept.
        before = entry.footprint.download_bytes if entry.kept else before
    return falls


def ledger_metrics(entry: LedgerEntry) -> dict[str, float]:
    """The entry's figures by name, for tracking; what was not measured is left out."""
    weight, accuracy = entry.footprint, entry.accuracy
    figures = {
        "size_bytes": weight.size_bytes,
        "download_bytes": weight.download_bytes,
        "bits_per_weight": weight.bits_per_weight,
        "non_zero_fraction": weight.non_zero_fraction,
        "codebook_bytes": weight.codebook_bytes,
        "index_bytes": weight.index_bytes,
        "validation_accuracy": accuracy.value if accuracy else None,
        "validation_accuracy_low": accuracy.low if accuracy else None,
        "validation_accuracy_high": accuracy.high if accuracy else None,
        "latency_p50_ms": entry.latency.p50_ms if entry.latency else None,
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _row(entry: LedgerEntry) -> tuple[str, ...]:
    weight = entry.footprint
    return (
        _name(entry),
        f"{weight.size_bytes:,}",
        f"{weight.download_bytes:,}",
        formatted(weight.bits_per_weight, "{:.2f}"),
        formatted(weight.non_zero_fraction, "{:.1%}"),
        f"{weight.codebook_bytes:,}",
        f"{weight.index_bytes:,}",
        accuracy_text(entry.accuracy),
        formatted(entry.latency.p50_ms if entry.latency else None, "{:.4g}"),
    )


def _name(entry: LedgerEntry) -> str:
    return entry.stage if entry.kept else f"{entry.stage} (left out)"

"""A validation report as one self-contained page: verdict first, and at the end what was not measured."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from edgewright.measurement import (
    Accuracy,
    BudgetLine,
    ComputePlan,
    Emulation,
    Energy,
    LedgerEntry,
    Measurement,
    Sustained,
    ValidationReport,
)
from edgewright.validate import charts
from edgewright.validate.ledger import LEDGER_HEADS, ledger_falls, ledger_rows

__all__ = ["report_html"]

_STYLE = Path(__file__).with_name("report.css")


def report_html(
    report: ValidationReport,
    *,
    model: str,
    device: str,
    sizes: Sequence[tuple[str, int]] = (),
    ledger: Sequence[LedgerEntry] = (),
) -> str:
    """The page, without script and without anything from the network.

    ``sizes`` are bytes on disk after each step, the source's float32 file first; left out, baseline and candidate
    stand for them. ``ledger`` is the model after each technique.
    """
    steps = sizes or (
        ("float32 baseline", report.baseline.artifact.size_bytes),
        ("candidate", report.candidate.artifact.size_bytes),
    )
    sections = (
        ("Budget", _budget(report.lines)),
        ("Accuracy", _accuracy(report)),
        ("Per class", _per_class(report)),
        ("Parity with the source model", _parity(report.candidate)),
        ("Latency", _latency(report)),
        ("Sustained latency", _sustained(report.sustained)),
        ("Energy", _energy(report.energy)),
        ("Memory", _memory(report)),
        ("Time by operator", _operators(report.candidate)),
        ("Compute plan", _compute_plan(report.compute_plan)),
        ("Size", _sizes(steps, report)),
        ("Stage by stage", _ledger(ledger)),
        ("On an Arm core (emulated)", _emulated(report.emulations)),
        ("Environment", _table(("", ""), [(escape(k), escape(v)) for k, v in report.environment])),
        ("Not measured", _not_measured(report)),
    )
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in sections if content)
    title = f"{model} on {device}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE.read_text()}</style></head><body><main>{_verdict(report, title)}{body}</main></body></html>\n"
    )


def _verdict(report: ValidationReport, title: str) -> str:
    kind, word = ("met", "passed") if report.passed else ("missed", "over budget")
    warnings = "".join(f"<li>{escape(said)}</li>" for said in report.warnings)
    causes = "".join(f"<li>{escape(line.sentence())}</li>" for line in report.violations)
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return (
        f'<header class="{kind}"><h1>{escape(title)}</h1><p class="verdict">{word}</p>'
        + (f'<ul class="warnings">{warnings}</ul>' if warnings else "")
        + (f"<ul>{causes}</ul>" if causes else "")
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</header>"
    )


def _budget(lines: Sequence[BudgetLine]) -> str:
    rows = []
    for line in lines:
        measured = "not measured" if line.measured is None else f"{line.measured:.4g}"
        margin = "" if line.margin is None else f"{line.margin:+.4g}"
        status = f'<span class="pill {line.status.replace(" ", "-")}">{line.status}</span>'
        rows.append((escape(line.figure), status, measured, f"{line.limit:.4g} {escape(line.unit)}", margin))
    return _table(("figure", "", "measured", "limit", "left"), rows)


def _accuracy(report: ValidationReport) -> str:
    rows = [
        (name, _share(found.value), f"{_share(found.low)} to {_share(found.high)}", f"{found.rows:,}")
        for name, found in (
            ("source model", report.source_accuracy),
            ("float32 baseline", report.baseline.accuracy),
            ("candidate", report.candidate.accuracy),
        )
        if found is not None
    ]
    metric = report.source_accuracy or report.candidate.accuracy
    table = _table((_metric(metric), "value", "95% interval", "test rows"), rows)
    if report.accuracy_drop_percent is None or report.drop_p_value is None:
        return table + "<p>The candidate could not be run here: nothing is claimed of its accuracy.</p>"
    return table + (
        f"<p>Against the source on the same rows: a loss of <b>{report.accuracy_drop_percent:.2f} percentage points</b>"
        f" (95% {report.drop_low_percent:.2f} to {report.drop_high_percent:.2f}), {escape(report.drop_test)}, "
        f"p = {report.drop_p_value:.2g}.</p>"
    )


def _metric(accuracy: Accuracy | None) -> str:
    return {"accuracy": "accuracy", "r2": "R²"}[accuracy.metric] if accuracy else ""


def _share(value: float) -> str:
    return f"{value:.4f}"


def _per_class(report: ValidationReport) -> str:
    rows = [
        (
            escape(c.label),
            f"{c.rows:,}",
            _share(c.source),
            _share(c.candidate),
            f"{100 * (c.candidate - c.source):+.2f}",
        )
        for c in report.per_class
    ]
    return _table(("class", "rows", "source", "candidate", "change, points"), rows)


def _parity(candidate: Measurement) -> str:
    found = candidate.parity
    if found.checked_by is None or found.max_absolute is None:
        return "<p>The exported file was not run here: nothing is claimed.</p>"
    rows = [
        ("run by", escape(found.checked_by)),
        ("rows", f"{found.rows:,}"),
        ("largest difference", f"{found.max_absolute:.3g}"),
        ("mean difference", _figure(found.mean_absolute)),
    ]
    if found.max_relative is not None:
        rows.append(("largest, relative to the source's largest output", f"{found.max_relative:.3g}"))
    if found.agreement is not None:
        rows.append(("same decision", f"{100 * found.agreement:.3f}% of rows"))
    note = f"<p>{escape(found.explanation)}</p>" if found.explanation else ""
    return _table(("", ""), rows) + note


def _latency(report: ValidationReport) -> str:
    if report.candidate.latency is None or report.baseline.latency is None:
        return "<p>Not measured here.</p>"
    pairs = (("float32 baseline", report.baseline), ("candidate", report.candidate))
    rows = []
    for name, measured in pairs:
        found = measured.latency
        if found is not None:
            figures = (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.mean_ms, found.min_ms)
            cold = (measured.load_ms, measured.first_ms)
            rows.append((name, *(_figure(v) for v in (*figures, *cold)), f"{found.runs:,}"))
    for name, measured in pairs:
        if (one := measured.one_thread) is not None:
            figures = (one.p50_ms, one.p90_ms, one.p95_ms, one.p99_ms, one.mean_ms, one.min_ms)
            rows.append((f"{name}, one thread", *(_figure(v) for v in figures), "", "", f"{one.runs:,}"))
    heads = ("ms", "p50", "p90", "p95", "p99", "mean", "least", "load", "first", "runs")
    samples = [(name, m.latency.sample_ms, _kind(name)) for name, m in pairs if m.latency is not None]
    ratio = (
        f"<p>Lower-quartile latency, candidate over baseline: <b>{report.latency_ratio:.3f}</b> "
        f"(95% {report.latency_ratio_low:.3f} to "
        f"{report.latency_ratio_high:.3f}). The same file against itself differed here by "
        f"{_noise(report.candidate.noise_percent)}. Verdict: <b>{escape(report.latency_verdict)}</b>.</p>"
        if report.latency_ratio is not None
        else ""
    )
    target = f"<p>Measured on: {escape(report.candidate.target)}, interleaved with the baseline, batch of one.</p>"
    return ratio + charts.distribution(samples, "ms", "Latency of single inferences") + _table(heads, rows) + target


def _noise(percent: float | None) -> str:
    return "an unknown share" if percent is None else f"{percent:.2g}%"


def _kind(name: str) -> str:
    return "candidate" if name == "candidate" else "baseline"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _sustained(found: Sustained | None) -> str:
    if found is None:
        return ""
    points = [(f"{(i + 1) * found.seconds / len(found.low_ms):.3g} s", ms) for i, ms in enumerate(found.low_ms)]
    heat = (
        f" Hottest sensor: {found.temperature_c[0]:.0f} to {found.temperature_c[-1]:.0f} °C."
        if found.temperature_c
        else ""
    )
    return (
        charts.timeline([("candidate", points, "candidate")], "ms", "Latency over a sustained run")
        + f"<p>The last window took {found.drift:.3f} of the first one's time.{heat}</p>"
    )


def _energy(found: Energy | None) -> str:
    if found is None:
        return ""
    kind = "Estimate, not measured:" if found.estimated else "Measured by"
    return f"<p><b>{1000 * found.joules:.3g} mJ</b> for one inference. {kind} {escape(found.source)}.</p>"


def _memory(report: ValidationReport) -> str:
    pairs = (("float32 baseline", report.baseline), ("candidate", report.candidate))
    rows = [
        (name, _figure(m.added_memory_mb), _figure(m.peak_memory_mb))
        for name, m in pairs
        if m.added_memory_mb is not None
    ]
    drawn = charts.timeline([(n, m.memory_steps, _kind(n)) for n, m in pairs], "MB", "Resident memory step by step")
    return drawn + _table(("MB", "added by load and run", "peak of the process"), rows)


def _operators(candidate: Measurement) -> str:
    drawn = [(f"{row.operator} x{row.calls}", row.mean_us, "candidate") for row in candidate.operators]
    return charts.bars(drawn, "µs", "Mean time of one inference by operator")


def _compute_plan(plan: ComputePlan | None) -> str:
    if plan is None:
        return ""
    counts = [(escape(device), f"{count:,}") for device, count in plan.devices]
    if plan.unplanned:
        counts.append(("nothing is said of", f"{plan.unplanned:,}"))
    costly = [(escape(f"{o.operator} {o.result}"), escape(o.device), f"{o.share:.1%}") for o in plan.costliest]
    return (
        _table(("preferred device", "operators"), counts)
        + _table(("costliest operators", "on", "estimated share of the work"), costly)
        + f"<p>Core ML's own plan for {escape(plan.units)}, on the Mac that ran it: an estimate, not a time.</p>"
    )


def _sizes(steps: Sequence[tuple[str, int]], report: ValidationReport) -> str:
    drawn = [(name, size / 1000, "baseline" if i == 0 else "candidate") for i, (name, size) in enumerate(steps)]
    download = (
        f"<p>Download, as it is sent: {report.baseline.download_bytes:,} B before, "
        f"{report.candidate.download_bytes:,} B after.</p>"
    )
    return charts.bars(drawn, "kB", "Bytes on disk after each step") + download


def _ledger(entries: Sequence[LedgerEntry]) -> str:
    if not entries:
        return ""
    falls = [(name, before / 1000, after / 1000, kept) for name, before, after, kept in ledger_falls(entries)]
    rows = [tuple(escape(cell) for cell in row) for row in ledger_rows(entries)]
    drawn = charts.waterfall(falls, "kB", "Bytes to download after each technique")
    return drawn + _table(LEDGER_HEADS, rows)


def _emulated(emulations: Sequence[Emulation]) -> str:
    rows = []
    for found in emulations:
        counted = found.instructions
        if counted is None:
            rows.append((escape(found.core), _ran(found), *[""] * 5))
            continue
        classes = (counted.total, counted.simd, counted.load_store, counted.branch, counted.integer)
        rows.append((escape(found.core), _ran(found), *(f"{n:,}" for n in classes)))
    if not rows:
        return ""
    heads = (
        "emulated",
        "largest difference from here, relative",
        "instructions",
        "SIMD",
        "load/store",
        "branch",
        "integer",
    )
    return _table(heads, rows) + "<p>Executed instructions of one inference. They rank models; they are not a time.</p>"


def _ran(found: Emulation) -> str:
    if found.failure:
        return f'<span class="pill missed wide">{escape(found.failure)}</span>'
    memory = (
        f"; took {found.peak_memory_mb:.0f} MB of {found.device_memory_mb}"
        if found.peak_memory_mb is not None and found.device_memory_mb is not None
        else ""
    )
    return f"{_figure(found.max_relative)}{memory}"


def _not_measured(report: ValidationReport) -> str:
    no_energy = () if report.energy else ("energy: no meter that may be read, and no estimate in the device profile",)
    reasons = dict.fromkeys((*report.baseline.not_measured, *report.candidate.not_measured, *no_energy))
    return "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in reasons) + "</ul>" if reasons else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; the first column names its row."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads) if any(heads) else ""
    body = "".join(
        "<tr>" + f"<th>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    headed = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{headed}<tbody>{body}</tbody></table></div>'

"""A validation report as one self-contained page: verdict first, and at the end what was not measured."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from edgewright.measurement import (
    ComputePlan,
    Emulation,
    Energy,
    LedgerEntry,
    Measurement,
    OutputParity,
    Sustained,
    ValidationReport,
)
from edgewright.report import charts
from edgewright.report.figures import (
    agreement_text,
    budget_rows,
    emulated_memory_text,
    energy_text,
    figure_text,
    formatted,
    metric_title,
)
from edgewright.report.html import Header, Part, Section, TextTable, page, pill
from edgewright.report.ledger import LEDGER_HEADS, ledger_falls, ledger_rows

__all__ = ["report_html"]

_OUTPUT_HEADS = ("output", "fidelity", "cosine", "largest difference", "relative", "same largest element")
_EMULATED_HEADS = (
    "emulated",
    "largest difference from here, relative",
    "instructions",
    "SIMD",
    "load/store",
    "branch",
    "integer",
)


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
        ("Budget", _budget(report)),
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
        ("Environment", (TextTable((), report.environment),)),
        ("Not measured", _not_measured(report)),
    )
    return page(f"{model} on {device}", [Section(name, tuple(parts)) for name, parts in sections], _verdict(report))


def _verdict(report: ValidationReport) -> Header:
    kind, word = ("met", "passed") if report.passed else ("missed", "over budget")
    causes = [line.sentence() for line in report.violations]
    return Header(kind, word, lists=(("warnings", report.warnings), ("causes", causes), ("notes", report.notes)))


def _budget(report: ValidationReport) -> Iterator[Part]:
    rows = [
        (
            row["figure"],
            pill(row["status"], row["status"].replace(" ", "-")),
            row["measured"],
            row["limit"],
            row["margin"],
        )
        for row in budget_rows(report)
    ]
    yield TextTable(("figure", "", "measured", "limit", "margin"), rows)


def _accuracy(report: ValidationReport) -> Iterator[Part]:
    rows = [
        (name, _share(accuracy.value), f"{_share(accuracy.low)} to {_share(accuracy.high)}", f"{accuracy.rows:,}")
        for name, accuracy in (
            ("source model", report.source_accuracy),
            ("float32 baseline", report.baseline.accuracy),
            ("candidate", report.candidate.accuracy),
        )
        if accuracy is not None
    ]
    metric = metric_title(report.source_accuracy or report.candidate.accuracy)
    yield TextTable((metric, "value", "95% interval", "test rows"), rows)
    if report.accuracy_drop_percent is None or report.drop_p_value is None:
        yield "The candidate could not be run here: nothing is claimed of its accuracy."
        return
    yield Markup(
        "Against the source on the same rows: a loss of <b>{:.2f} {}</b> (95% {:.2f} to {:.2f}), {}, p = {:.2g}."
    ).format(
        report.accuracy_drop_percent,
        report.drop_unit,
        report.drop_low_percent,
        report.drop_high_percent,
        report.drop_test,
        report.drop_p_value,
    )


def _share(value: float) -> str:
    return f"{value:.4f}"


def _per_class(report: ValidationReport) -> Iterator[Part]:
    rows = [
        (c.label, f"{c.rows:,}", _share(c.source), _share(c.candidate), f"{100 * (c.candidate - c.source):+.2f}")
        for c in report.per_class
    ]
    yield TextTable(("class", "rows", "source", "candidate", "change, points"), rows)


def _parity(candidate: Measurement) -> Iterator[Part]:
    parity = candidate.parity
    if parity.checked_by is None or parity.max_absolute is None:
        yield "The exported file was not run here: nothing is claimed."
        return
    rows = [
        ("run by", parity.checked_by),
        ("rows", f"{parity.rows:,}"),
        ("largest difference", figure_text("max_difference", parity.max_absolute)),
        ("mean difference", formatted(parity.mean_absolute)),
    ]
    if parity.max_relative is not None:
        rows.append(("largest, relative to the source's largest output", f"{parity.max_relative:.3g}"))
    if parity.agreement is not None:
        rows.append(("same decision", f"{agreement_text(parity.agreement)} of rows"))
    yield TextTable((), rows)
    yield parity.explanation
    yield TextTable(_OUTPUT_HEADS, [_output_row(output) for output in parity.outputs])


def _output_row(parity: OutputParity) -> tuple[str, ...]:
    return (
        parity.name,
        f"{parity.fidelity:.6f}",
        _figure(parity.cosine, "{:.6f}"),
        figure_text("max_difference", parity.max_absolute),
        _figure(parity.max_relative, "{:.3g}"),
        "-" if parity.agreement is None else agreement_text(parity.agreement),
    )


def _pairs(report: ValidationReport) -> tuple[tuple[str, Measurement], ...]:
    return ("float32 baseline", report.baseline), ("candidate", report.candidate)


def _latency(report: ValidationReport) -> Iterator[Part]:
    if report.candidate.latency is None or report.baseline.latency is None:
        yield "Not measured here."
        return
    rows = []
    for name, measured in _pairs(report):
        if (latency := measured.latency) is not None:
            figures = (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms, latency.mean_ms, latency.min_ms)
            cold = (measured.load_ms, measured.first_ms)
            rows.append((name, *(_figure(v) for v in (*figures, *cold)), f"{latency.runs:,}"))
    for name, measured in _pairs(report):
        if (one := measured.one_thread) is not None:
            figures = (one.p50_ms, one.p90_ms, one.p95_ms, one.p99_ms, one.mean_ms, one.min_ms)
            rows.append((f"{name}, one thread", *(_figure(v) for v in figures), "", "", f"{one.runs:,}"))
    if report.latency_ratio is not None:
        yield Markup(
            "Lower-quartile latency, candidate over baseline: <b>{:.3f}</b> (95% {:.3f} to {:.3f}). The same file "
            "against itself differed here by {}. Verdict: <b>{}</b>."
        ).format(
            report.latency_ratio,
            report.latency_ratio_low,
            report.latency_ratio_high,
            _noise(report.candidate.noise_percent),
            report.latency_verdict,
        )
    samples = [(name, m.latency.sample_ms, _kind(name)) for name, m in _pairs(report) if m.latency is not None]
    yield charts.distribution(samples, "ms", "Latency of single inferences")
    yield TextTable(("ms", "p50", "p90", "p95", "p99", "mean", "min", "load", "first", "runs"), rows)
    yield f"Measured on: {report.candidate.target}, interleaved with the baseline, batch of one."


def _noise(percent: float | None) -> str:
    return "an unknown share" if percent is None else f"{percent:.2g}%"


def _kind(name: str) -> str:
    return "candidate" if name == "candidate" else "baseline"


def _figure(value: float | None, form: str = "{:.4g}") -> str:
    return formatted(value, form, absent="-")


def _sustained(sustained: Sustained | None) -> Iterator[Part]:
    if sustained is None:
        return
    points = [
        (f"{(i + 1) * sustained.seconds / len(sustained.low_ms):.3g} s", ms) for i, ms in enumerate(sustained.low_ms)
    ]
    yield charts.timeline([("candidate", points, "candidate")], "ms", "Latency over a sustained run")
    heat = sustained.temperature_c
    hottest = f" Hottest sensor: {heat[0]:.0f} to {heat[-1]:.0f} °C." if heat else ""
    yield f"The last window took {sustained.drift:.3f} of the first one's time.{hottest}"


def _energy(energy: Energy | None) -> Iterator[Part]:
    if energy is not None:
        kind = "Estimate, not measured:" if energy.estimated else "Measured by"
        yield Markup("<b>{}</b> for one inference. {} {}.").format(energy_text(energy), kind, energy.source)


def _memory(report: ValidationReport) -> Iterator[Part]:
    rows = [
        (
            name,
            figure_text("added_memory_mb", m.added_memory_mb, absent="-"),
            figure_text("peak_memory_mb", m.peak_memory_mb, absent="-"),
        )
        for name, m in _pairs(report)
        if m.added_memory_mb is not None
    ]
    steps = [(name, m.memory_steps, _kind(name)) for name, m in _pairs(report)]
    yield charts.timeline(steps, "MB", "Resident memory step by step")
    yield TextTable(("MB", "added by load and run", "peak of the process"), rows)


def _operators(candidate: Measurement) -> Iterator[Part]:
    drawn = [(f"{row.operator} x{row.calls}", row.mean_us, "candidate") for row in candidate.operators]
    yield charts.bars(drawn, "µs", "Mean time of one inference by operator")


def _compute_plan(plan: ComputePlan | None) -> Iterator[Part]:
    if plan is None:
        return
    counts = [(device, f"{count:,}") for device, count in plan.devices]
    if plan.unplanned:
        counts.append(("nothing is said of", f"{plan.unplanned:,}"))
    costly = [(f"{o.operator} {o.result}", o.device, f"{o.share:.1%}") for o in plan.costliest]
    yield TextTable(("preferred device", "operators"), counts)
    yield TextTable(("costliest operators", "on", "estimated share of the work"), costly)
    yield f"Core ML's own plan for {plan.units}, on the Mac that ran it: an estimate, not a time."


def _sizes(steps: Sequence[tuple[str, int]], report: ValidationReport) -> Iterator[Part]:
    drawn = [(name, size / 1000, "baseline" if i == 0 else "candidate") for i, (name, size) in enumerate(steps)]
    yield charts.bars(drawn, "kB", "Bytes on disk after each step")
    before, after = report.baseline.download_bytes, report.candidate.download_bytes
    yield f"Download, as it is sent: {before:,} B before, {after:,} B after."


def _ledger(entries: Sequence[LedgerEntry]) -> Iterator[Part]:
    falls = [(name, before / 1000, after / 1000, is_kept) for name, before, after, is_kept in ledger_falls(entries)]
    yield charts.waterfall(falls, "kB", "Bytes to download after each technique")
    yield TextTable(LEDGER_HEADS, ledger_rows(entries))


def _emulated(emulations: Sequence[Emulation]) -> Iterator[Part]:
    rows = []
    for emulation in emulations:
        if (counted := emulation.instructions) is None:
            rows.append((emulation.core, _ran(emulation), *[""] * 5))
            continue
        classes = (counted.total, counted.simd, counted.load_store, counted.branch, counted.integer)
        rows.append((emulation.core, _ran(emulation), *(f"{n:,}" for n in classes)))
    if rows:
        yield TextTable(_EMULATED_HEADS, rows)
        yield "Executed instructions of one inference. They rank models; they are not a time."


def _ran(emulation: Emulation) -> str:
    if emulation.failure:
        return pill(emulation.failure, "missed wide")
    memory = emulated_memory_text(emulation)
    return f"{_figure(emulation.max_relative)}{f'; took {memory}' if memory else ''}"


def _not_measured(report: ValidationReport) -> Iterator[Part]:
    no_energy = () if report.energy else ("energy: no meter that may be read, and no estimate in the device profile",)
    # Baseline and candidate mostly share a reason: each is told once.
    yield from dict.fromkeys((*report.baseline.not_measured, *report.candidate.not_measured, *no_energy))

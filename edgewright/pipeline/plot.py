"""A validation report as a picture: what each step weighs, and how fast baseline and candidate are."""

from io import BytesIO
from typing import Any

from edgewright.measurement import ValidationReport
from edgewright.pipeline.result import Optimization
from edgewright.validate.ledger import ledger_falls

__all__ = ["plot_report"]

_BASELINE, _CANDIDATE, _DROPPED = "#8a94a6", "#1f6feb", "#d0d7de"


def plot_report(report: ValidationReport, optimization: Optimization) -> bytes:
    """PNG: bytes on disk after each step, what each took off the download, latency of baseline and candidate."""
    # Figure alone, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4), layout="constrained")
    sizes, downloads, latencies = figure.subplots(1, 3)
    _plot_sizes(sizes, optimization)
    _plot_downloads(downloads, optimization)
    _plot_latency(latencies, report)
    verdict = "passed" if report.passed else "over budget"
    figure.suptitle(f"{optimization.model.name}: {verdict}")
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return content.getvalue()


def _plot_sizes(axes: Any, optimization: Optimization) -> None:
    names, sizes, colours = ["float32"], [optimization.baseline.artifact.size_bytes], [_BASELINE]
    for step in optimization.steps:
        if step.exported is not None:
            label = step.parameters.get("dtype", "")
            names.append(f"{step.technique} {label}".strip() + ("" if step.kept else "\n(no benefit)"))
            sizes.append(step.exported.artifact.size_bytes)
            colours.append(_CANDIDATE if step.kept else _DROPPED)
    bars = axes.bar(names, [size / 1000 for size in sizes], color=colours)
    axes.bar_label(bars, fmt="{:.1f}")
    axes.set(title="Size on disk", ylabel="kB")
    axes.spines[["top", "right"]].set_visible(False)


def _plot_downloads(axes: Any, optimization: Optimization) -> None:
    """A waterfall: each bar spans what its technique took off (or added), and its label is what is left."""
    axes.set(title="Download after each technique", ylabel="kB")
    axes.spines[["top", "right"]].set_visible(False)
    for i, (name, before, after, kept) in enumerate(ledger_falls(optimization.ledger)):
        colour = _BASELINE if i == 0 else _CANDIDATE if kept else _DROPPED
        axes.bar(name.replace(" (", "\n("), abs(before - after) / 1000, bottom=min(before, after) / 1000, color=colour)
        axes.annotate(f"{after / 1000:.1f}", (i, max(before, after) / 1000), ha="center", va="bottom")


def _plot_latency(axes: Any, report: ValidationReport) -> None:
    axes.set(title="Latency of one inference", xlabel="ms", yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    if report.candidate.latency is None:
        axes.set(xticks=[], xlabel="")
        axes.text(0.5, 0.5, "not measured here", ha="center", va="center", transform=axes.transAxes)
        return
    shown = [("candidate", report.candidate, _CANDIDATE)]
    if report.baseline.artifact.digest != report.candidate.artifact.digest:
        shown.insert(0, ("float32", report.baseline, _BASELINE))
    for name, measured, colour in shown:
        if measured.latency is not None:
            samples = [ms for ms in measured.latency.sample_ms if ms <= (measured.latency.p99_ms or ms)]
            label = f"{name}: p50 {measured.latency.p50_ms:.3f}, p95 {measured.latency.p95_ms:.3f}"
            axes.hist(samples, bins=40, density=True, color=colour, alpha=0.6, label=label)
    axes.legend(frameon=False, fontsize="small")

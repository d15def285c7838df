"""A validation report as a picture: what each step weighs, and how fast baseline and candidate are."""

from io import BytesIO
from typing import Any

from edgewright.measurement import ValidationReport
from edgewright.result import Optimization

__all__ = ["plot_report"]

_BASELINE, _CANDIDATE, _DROPPED = "#8a94a6", "#1f6feb", "#d0d7de"


def plot_report(report: ValidationReport, optimization: Optimization) -> bytes:
    """PNG of two panels: size on disk after each step, and the latency distribution of baseline and candidate."""
    # Figure alone, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    sizes, latencies = figure.subplots(1, 2)
    _plot_sizes(sizes, optimization)
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

"""Runs side by side: a table, and which of them no other beats."""

from collections.abc import Mapping, Sequence

from edgewright.report.charts import Chart, Point, scatter
from edgewright.report.figures import FIGURES, formatted
from edgewright.report.html import Section, TextTable, page
from edgewright.value import Value

__all__ = ["ComparedRun", "comparison_html", "pareto"]

_SHOWN = (
    "accuracy",
    "accuracy_drop",
    "latency_p50_ms",
    "latency_p95_ms",
    "peak_memory_mb",
    "size_bytes",
    "download_bytes",
)
_COLUMNS = {figure.name: (figure.head, figure.form) for figure in FIGURES}
_COLUMNS["accuracy_drop"] = ("loss, points", "{:.2f}")
_AGAINST = (
    ("Accuracy against latency", "latency_p50_ms", "ms"),
    ("Accuracy against size on disk", "size_bytes", "bytes"),
)


class ComparedRun(Value):
    """One pipeline run's figures, as tracking keeps them; a figure that was not measured is absent."""

    run_id: str
    name: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def label(self) -> str:
        """Name, device and recipe, and the beginning of its id."""
        parts = (self.name, self.tags.get("device", self.tags.get("platform", "")), self.tags.get("recipe", ""))
        return " · ".join(dict.fromkeys(part for part in parts if part)) + f" ({self.run_id[:8]})"


def pareto(runs: Sequence[ComparedRun], smaller: str, larger: str) -> tuple[ComparedRun, ...]:
    """The runs that no other beats: less of one figure at no less of the other. Runs without both are left out."""
    both = [run for run in runs if smaller in run.metrics and larger in run.metrics]

    def beaten(run: ComparedRun) -> bool:
        cost, gain = run.metrics[smaller], run.metrics[larger]
        return any(
            other.metrics[smaller] <= cost
            and other.metrics[larger] >= gain
            # Better in one at least: of two equal runs neither beats the other.
            and (other.metrics[smaller] < cost or other.metrics[larger] > gain)
            for other in both
        )

    return tuple(run for run in both if not beaten(run))


def comparison_html(runs: Sequence[ComparedRun]) -> str:
    """A self-contained page: the table, accuracy against latency, accuracy against size."""
    rows = [
        (
            f"{i}. {run.label}",
            *(formatted(run.metrics.get(name), _COLUMNS[name][1]) for name in _SHOWN),
        )
        for i, run in enumerate(runs, 1)
    ]
    table = Section("", (TextTable(("run", *(_COLUMNS[name][0] for name in _SHOWN)), rows),))
    plots = (Section(title, _plot(runs, smaller, unit, title)) for title, smaller, unit in _AGAINST)
    return page(f"{len(runs)} runs compared", (table, *plots))


def _plot(runs: Sequence[ComparedRun], smaller: str, unit: str, title: str) -> tuple[Chart | str, ...]:
    """Each run by its number in the table; a line joins those that no other beats."""
    best = {run.run_id for run in pareto(runs, smaller, "accuracy")}
    points = [
        Point(i, run.label, run.metrics[smaller], run.metrics["accuracy"], run.run_id in best)
        for i, run in enumerate(runs, 1)
        if smaller in run.metrics and "accuracy" in run.metrics
    ]
    if not points:
        return ("No run has both figures.",)
    return scatter(points, (unit, ""), title), "Numbers are those of the table. Blue: no other run is better in both."

"""Runs side by side: a table, and which of them no other beats."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from edgewright.artifact import Value

__all__ = ["ComparedRun", "comparison_html", "pareto"]

_STYLE = Path(__file__).with_name("report.css")
_WIDTH, _HEIGHT, _EDGE = 640, 300, 46
_SHOWN = (
    ("accuracy", "accuracy", "{:.4f}"),
    ("accuracy_drop", "loss, points", "{:.2f}"),
    ("latency_p50_ms", "p50, ms", "{:.4g}"),
    ("latency_p95_ms", "p95, ms", "{:.4g}"),
    ("peak_memory_mb", "peak, MB", "{:.1f}"),
    ("size_bytes", "bytes on disk", "{:,.0f}"),
    ("download_bytes", "bytes to download", "{:,.0f}"),
)


class ComparedRun(Value):
    """One pipeline run's figures, as tracking keeps them; a figure that was not measured is absent."""

    run_id: str
    name: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


def pareto(runs: Sequence[ComparedRun], smaller: str, larger: str) -> tuple[ComparedRun, ...]:
    """The runs that no other beats: less of one figure at no less of the other. Runs without both are left out."""
    both = [run for run in runs if smaller in run.metrics and larger in run.metrics]

    def beaten(run: ComparedRun) -> bool:
        cost, gain = run.metrics[smaller], run.metrics[larger]
        return any(
            other.metrics[smaller] <= cost
            and other.metrics[larger] >= gain
            and (other.metrics[smaller] < cost or other.metrics[larger] > gain)
            for other in both
        )

    return tuple(run for run in both if not beaten(run))


def comparison_html(runs: Sequence[ComparedRun]) -> str:
    """A self-contained page: the table, accuracy against latency, accuracy against size."""
    heads = "".join(f"<th>{escape(head)}</th>" for head in ("run", *(label for _, label, _ in _SHOWN)))
    rows = "".join(_row(run) for run in runs)
    plots = "".join(
        f"<section><h2>{escape(title)}</h2>{_plot(runs, smaller, unit)}</section>"
        for title, smaller, unit in (
            ("Accuracy against latency", "latency_p50_ms", "ms"),
            ("Accuracy against size on disk", "size_bytes", "bytes"),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Runs compared</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE.read_text()}</style></head><body><main><header><h1>{len(runs)} runs compared</h1></header>"
        f'<section><div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
        f"{plots}</main></body></html>\n"
    )


def _row(run: ComparedRun) -> str:
    cells = [form.format(run.metrics[key]) if key in run.metrics else "not measured" for key, _, form in _SHOWN]
    return f"<tr><th>{escape(_label(run))}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _label(run: ComparedRun) -> str:
    parts = (run.name, run.tags.get("device", run.tags.get("platform", "")), run.tags.get("recipe", ""))
    return " · ".join(dict.fromkeys(part for part in parts if part)) + f" ({run.run_id[:8]})"


def _plot(runs: Sequence[ComparedRun], smaller: str, unit: str) -> str:
    shown = [run for run in runs if smaller in run.metrics and "accuracy" in run.metrics]
    if not shown:
        return "<p>No run has both figures.</p>"
    best = {run.run_id for run in pareto(runs, smaller, "accuracy")}
    across = _scale([run.metrics[smaller] for run in shown], _EDGE, _WIDTH - 150)
    up = _scale([run.metrics["accuracy"] for run in shown], _HEIGHT - _EDGE, 20)
    parts = [f'<line x1="{_EDGE}" y1="{_HEIGHT - 24}" x2="{_WIDTH}" y2="{_HEIGHT - 24}"/>']
    for run in sorted(shown, key=lambda run: run.metrics[smaller]):
        x, y = across(run.metrics[smaller]), up(run.metrics["accuracy"])
        kind = "candidate" if run.run_id in best else "baseline"
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{escape(_label(run))}</title></circle>'
        )
        parts.append(
            f'<text x="{x + 10:.1f}" y="{y + 4:.1f}">{run.metrics["accuracy"]:.4f}, '
            f"{run.metrics[smaller]:,.4g} {escape(unit)}</text>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Pareto plot">{"".join(parts)}</svg>'
        "<p>Blue: no other run is better in both.</p>"
    )


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / spread

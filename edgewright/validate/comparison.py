"""Runs side by side: a table, and which of them no other beats."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from edgewright.validate.charts import figure
from edgewright.value import Value

__all__ = ["ComparedRun", "comparison_html", "pareto"]

_STYLE = Path(__file__).with_name("report.css")
_WIDTH, _HEIGHT, _LEFT, _BELOW = 640, 300, 90, 34
_APART = 14.0  # points nearer than this share a label
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
    rows = "".join(_row(i, run) for i, run in enumerate(runs, 1))
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


def _row(number: int, run: ComparedRun) -> str:
    cells = [form.format(run.metrics[key]) if key in run.metrics else "not measured" for key, _, form in _SHOWN]
    return f"<tr><th>{number}. {escape(_label(run))}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _label(run: ComparedRun) -> str:
    parts = (run.name, run.tags.get("device", run.tags.get("platform", "")), run.tags.get("recipe", ""))
    return " · ".join(dict.fromkeys(part for part in parts if part)) + f" ({run.run_id[:8]})"


def _plot(runs: Sequence[ComparedRun], smaller: str, unit: str) -> str:
    """Each run by its number in the table; a line joins those that no other beats."""
    shown = [(i, run) for i, run in enumerate(runs, 1) if smaller in run.metrics and "accuracy" in run.metrics]
    if not shown:
        return "<p>No run has both figures.</p>"
    costs, gains = ([run.metrics[key] for _, run in shown] for key in (smaller, "accuracy"))
    across, up = _scale(costs, _LEFT + 20, _WIDTH - 40), _scale(gains, _HEIGHT - _BELOW - 20, 20)
    best = sorted(pareto(runs, smaller, "accuracy"), key=lambda run: run.metrics[smaller])
    places = {i: (across(run.metrics[smaller]), up(run.metrics["accuracy"])) for i, run in shown}
    front = " ".join(f"{across(run.metrics[smaller]):.1f},{up(run.metrics['accuracy']):.1f}" for run in best)
    chosen = {run.run_id for run in best}
    parts = [_axes(costs, gains, unit, across, up), f'<polyline class="candidate" points="{front}"/>']
    for i, run in shown:
        x, y = places[i]
        kind = "candidate" if run.run_id in chosen else "baseline"
        said = f"{_label(run)}: {run.metrics['accuracy']:.4f}, {figure(run.metrics[smaller])} {unit}"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{escape(said)}</title></circle>')
    parts += [f'<text x="{x:.1f}" y="{y:.1f}">{escape(said)}</text>' for x, y, said in _numbered(places)]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Pareto plot">{"".join(parts)}</svg>'
        "<p>Numbers are those of the table. Blue: no other run is better in both.</p>"
    )


def _numbered(places: Mapping[int, tuple[float, float]]) -> list[tuple[float, float, str]]:
    """Runs that lie upon one another share a label."""
    groups: dict[tuple[float, float], list[int]] = {}
    for i, (x, y) in places.items():
        near = next((at for at in groups if abs(at[0] - x) < _APART and abs(at[1] - y) < _APART), (x, y))
        groups.setdefault(near, []).append(i)
    return [(x + 8, y + 18, ", ".join(str(i) for i in numbers)) for (x, y), numbers in groups.items()]


def _axes(
    costs: Sequence[float],
    gains: Sequence[float],
    unit: str,
    across: Callable[[float], float],
    up: Callable[[float], float],
) -> str:
    floor = _HEIGHT - _BELOW
    parts = [
        f'<line x1="{_LEFT}" y1="{floor}" x2="{_WIDTH}" y2="{floor}"/>',
        f'<line x1="{_LEFT}" y1="0" x2="{_LEFT}" y2="{floor}"/>',
    ]
    for value in dict.fromkeys((min(costs), max(costs))):
        anchor = "start" if value == min(costs) else "end"
        x = across(value) + (-20 if anchor == "start" else 40)
        parts.append(f'<text x="{x:.1f}" y="{floor + 24}" text-anchor="{anchor}">{figure(value)} {escape(unit)}</text>')
    parts += [
        f'<text x="{_LEFT - 6}" y="{up(value) + 5:.1f}" text-anchor="end">{value:.4f}</text>'
        for value in dict.fromkeys((min(gains), max(gains)))
    ]
    return "".join(parts)


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / spread

"""Small charts as SVG: sharp in print, in the page's own colours, without script and without network.

Drawn by hand: a plotting library's SVG knows neither the page's light and dark colours nor the window's width.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    "STYLE",
    "Chart",
    "Point",
    "bars",
    "distribution",
    "levels",
    "number",
    "picture",
    "scatter",
    "timeline",
    "waterfall",
]

STYLE = Path(__file__).parent / "templates" / "chart.css"
_WIDTH = 640
_BINS = 48
_TITLE = 30
_APART = 14.0  # points nearer than this share a label
_GLYPH = 12.5  # what a wide letter takes on a phone, where report.css has the larger size


class Chart(NamedTuple):
    """What is drawn, and the height that it takes; of no height where there was nothing to draw."""

    height: int = 0
    title: str = ""
    content: str = ""

    def __bool__(self) -> bool:
        return self.height > 0

    def __html__(self) -> str:
        """The element, for a page; templates take it as it is."""
        title = escape(self.title)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {self.height}" role="img" aria-label="{title}"><title>{title}</title>'
            f"{self.content}</svg>"
        )


class Point(NamedTuple):
    """One of a scatter: the number it is known by elsewhere, and whether no other is better in both."""

    number: int
    label: str
    across: float
    up: float
    best: bool


def picture(charts: Sequence[Chart]) -> bytes:
    """A file of its own: the charts one below the other, each under its title."""
    parts, y = [], 0
    for chart in filter(None, charts):
        parts.append(
            f'<text class="title" x="0" y="{y + 20}">{escape(chart.title)}</text>'
            f'<svg x="0" y="{y + _TITLE}" width="{_WIDTH}" height="{chart.height}" '
            f'viewBox="0 0 {_WIDTH} {chart.height}">{chart.content}</svg>'
        )
        y += chart.height + 2 * _TITLE
    frame = f'viewBox="-20 -10 {_WIDTH + 40} {y + 20}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 40}" height="{y + 20}" {frame}>'
        f'<style>{STYLE.read_text()}</style><rect class="paper" x="-20" y="-10" width="{_WIDTH + 40}" '
        f'height="{y + 20}"/>{"".join(parts)}</svg>\n'
    ).encode()


def number(value: float) -> str:
    """Four digits, and all of them before the point: ``0.0177``, ``86,000``."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def bars(rows: Sequence[tuple[str, float, str]], unit: str, title: str) -> Chart:
    """Horizontal bars: (label, value, CSS class) each; ``title`` is read to those who cannot see."""
    if not rows:
        return Chart()
    height, left = 34, _room([label for label, _, _ in rows])
    right = _room([f"{number(value)} {unit}" for _, value, _ in rows])
    # All are zero: any scale will do.
    longest = max(value for _, value, _ in rows) or 1.0
    parts = []
    for i, (label, value, kind) in enumerate(rows):
        # A pixel at least, so that the smallest is seen.
        width = max(1.0, (_WIDTH - left - right) * value / longest)
        y = i * height
        parts.append(
            f"{_label(label, left, y + 22)}"
            f'<rect class="{escape(kind)}" x="{left}" y="{y + 6}" width="{width:.1f}" height="22" rx="3"/>'
            f'<text class="value" x="{left + width + 8:.1f}" y="{y + 22}">{number(value)} {escape(unit)}</text>'
        )
    return Chart(len(rows) * height, title, "".join(parts))


def waterfall(falls: Sequence[tuple[str, float, float, bool]], unit: str, title: str) -> Chart:
    """Steps from one size to the next: (label, before, after, is_kept) each, the first from nothing.

    A bar spans what the step took away or added; its end is what is left. A step that was not kept is drawn pale.
    """
    if not falls:
        return Chart()
    captions = [
        f"{number(after)} {unit}" + (f" ({100 * (after / before - 1):+.1f}%)" if before else "")
        for _, before, after, _ in falls
    ]
    height, left, right = 34, _room([label for label, *_ in falls]), _room(captions)
    longest = max(max(before, after) for _, before, after, _ in falls) or 1.0
    scale = (_WIDTH - left - right) / longest
    parts = []
    for i, (label, before, after, is_kept) in enumerate(falls):
        start, end = sorted((before, after))
        y, kind = i * height, "baseline" if i == 0 else "candidate" if is_kept else "baseline overlaid"
        parts.append(
            f"{_label(label, left, y + 22)}"
            f'<rect class="{kind}" x="{left + start * scale:.1f}" y="{y + 6}" '
            f'width="{max(1.0, (end - start) * scale):.1f}" height="22" rx="3"/>'
            f'<text class="value" x="{left + end * scale + 8:.1f}" y="{y + 22}">{escape(captions[i])}</text>'
        )
        # After a step that was left out the next one begins at an earlier level, where no line leads.
        if is_kept and i + 1 < len(falls):
            at = left + after * scale
            parts.append(f'<line x1="{at:.1f}" y1="{y + 28}" x2="{at:.1f}" y2="{y + height + 6}"/>')
    return Chart(len(falls) * height, title, "".join(parts))


def levels(rows: Sequence[tuple[str, float, float, str]], top: float, unit: str, title: str) -> Chart:
    """A bar from 0 to a level and a mark at another, for many rows: (label, bar, mark, CSS class) each.

    What lies above ``top`` is drawn there, what lies below 0 as a stub.
    """
    if not rows:
        return Chart()
    height, left, right = 20, _room([label for label, *_ in rows]), 90
    scale = (_WIDTH - left - right) / top
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + share * scale * top
        parts.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{share * top:.0f}</text>')
        parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{24 + len(rows) * height}"/>')
    for i, (label, level, mark, kind) in enumerate(rows):
        y = 24 + i * height
        end, at = (left + scale * min(max(value, 0.0), top) for value in (level, mark))
        # Infinite where there is no error at all, minus infinite where no signal is left.
        caption = f"{level:.0f} {unit}" if np.isfinite(level) else "exact" if level > 0 else "lost"
        width = max(2.0, end - left)
        parts.append(
            f"{_label(label, left, y + 14)}"
            f'<rect class="{escape(kind)}" x="{left}" y="{y + 4}" width="{width:.1f}" height="12" rx="2"/>'
            f'<rect class="mark" x="{at - 1.5:.1f}" y="{y + 1}" width="3" height="18"/>'
            f'<text class="value" x="{left + scale * top + 10:.1f}" y="{y + 14}">{escape(caption)}</text>'
        )
    return Chart(24 + len(rows) * height, title, "".join(parts))


def distribution(series: Sequence[tuple[str, Sequence[float], str]], unit: str, title: str) -> Chart:
    """Overlaid histograms on one axis, cut at the 99th percentile: (label, values, CSS class) each."""
    shown = [(label, np.asarray(values, np.float64), kind) for label, values, kind in series if len(values)]
    if not shown:
        return Chart()
    low = min(float(values.min()) for _, values, _ in shown)
    high = max(float(np.percentile(values, 99)) for _, values, _ in shown)
    # All values are equal, and a histogram needs a width.
    edges = np.linspace(low, high if high > low else low + 1e-9, _BINS + 1)
    shares = [(label, np.histogram(values, edges)[0] / len(values), kind) for label, values, kind in shown]
    highest = max(float(share.max()) for _, share, _ in shares) or 1.0
    plot, step = 180, _WIDTH / _BINS
    parts = [
        f'<rect class="{escape(kind)} overlaid" x="{i * step:.1f}" y="{plot * (1 - value / highest):.1f}" '
        f'width="{step:.1f}" height="{plot * value / highest:.1f}"/>'
        for _, share, kind in shares
        for i, value in enumerate(share)
        if value > 0
    ]
    parts.append(f'<line x1="0" y1="{plot}" x2="{_WIDTH}" y2="{plot}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = low + share * (high - low)
        parts.append(
            f'<text x="{share * _WIDTH:.0f}" y="{plot + 20}" text-anchor="{anchor}">{at:.4g} {escape(unit)}</text>'
        )
    parts.append(_legend([(label, kind) for label, _, kind in shown], 0, plot + 36))
    return Chart(plot + 36 + 22 * len(shown), title, "".join(parts))


def timeline(series: Sequence[tuple[str, Sequence[tuple[str, float]], str]], unit: str, title: str) -> Chart:
    """One line per series through the same named moments: (label, [(moment, value)], CSS class) each."""
    shown = [(label, points, kind) for label, points, kind in series if points]
    if not shown:
        return Chart()
    plot, left, right = 150, 60, 60
    values = [value for _, points, _ in shown for _, value in points]
    low, high = min(values), max(values)
    # One level throughout: any scale will do.
    spread = (high - low) or 1.0
    # All series have the same moments, so those of the first name them.
    moments = [moment for moment, _ in shown[0][1]]
    step = (_WIDTH - left - right) / max(1, len(moments) - 1)
    parts = []
    for _, points, kind in shown:
        places = [(left + i * step, 16 + (plot - 24) * (1 - (v - low) / spread)) for i, (_, v) in enumerate(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{escape(kind)}" points="{path}"/>')
        parts += [f'<circle class="{escape(kind)}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    labels, rows = _below(moments, [left + i * step for i in range(len(moments))], plot + 18)
    ends = [(f"{label}: {points[-1][1]:.4g} {unit} at the end", kind) for label, points, kind in shown]
    parts += [labels, _legend(ends, 0, plot + 12 + 22 * rows)]
    return Chart(plot + 12 + 22 * (rows + len(ends)), title, "".join(parts))


def scatter(points: Sequence[Point], units: tuple[str, str], title: str) -> Chart:
    """Points by their numbers; a line joins the best ones. ``units`` are those across and up."""
    if not points:
        return Chart()
    left, floor = 90, 266
    costs, gains = [point.across for point in points], [point.up for point in points]
    across, up = _scale(costs, left + 20, _WIDTH - 40), _scale(gains, floor - 20, 20)
    parts = [
        f'<line x1="{left}" y1="{floor}" x2="{_WIDTH}" y2="{floor}"/>',
        f'<line x1="{left}" y1="0" x2="{left}" y2="{floor}"/>',
    ]
    ends = ((min(costs), "start", -20), (max(costs), "end", 40))
    # One caption where all cost the same.
    for value, anchor, aside in ends if len(set(costs)) > 1 else ends[:1]:
        x, caption = across(value) + aside, f"{number(value)} {escape(units[0])}"
        parts.append(f'<text x="{x:.1f}" y="{floor + 24}" text-anchor="{anchor}">{caption}</text>')
    parts += [
        f'<text x="{left - 6}" y="{up(value) + 5:.1f}" text-anchor="end">{value:.4f}</text>'
        for value in dict.fromkeys((min(gains), max(gains)))
    ]
    front = sorted((across(point.across), up(point.up)) for point in points if point.best)
    parts.append(f'<polyline class="candidate" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in front)}"/>')
    places = {point.number: (across(point.across), up(point.up)) for point in points}
    for point in points:
        x, y = places[point.number]
        kind = "candidate" if point.best else "baseline"
        caption = f"{point.label}: {point.up:.4f} {units[1]}".rstrip() + f", {number(point.across)} {units[0]}"
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{escape(caption)}</title></circle>'
        )
    parts += [f'<text x="{x:.1f}" y="{y:.1f}">{escape(caption)}</text>' for x, y, caption in _numbered(places)]
    return Chart(300, title, "".join(parts))


def _numbered(places: Mapping[int, tuple[float, float]]) -> list[tuple[float, float, str]]:
    """Points that lie upon one another share a label."""
    groups: dict[tuple[float, float], list[int]] = {}
    for i, (x, y) in places.items():
        near = next((at for at in groups if abs(at[0] - x) < _APART and abs(at[1] - y) < _APART), (x, y))
        groups.setdefault(near, []).append(i)
    return [(x + 8, y + 18, ", ".join(str(i) for i in numbers)) for (x, y), numbers in groups.items()]


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / spread


def _below(labels: Sequence[str], places: Sequence[float], y: int) -> tuple[str, int]:
    """Labels centred under their places and within the chart; every other one a row lower where two would touch."""
    halves = [len(label) * _GLYPH / 2 for label in labels]
    centres = [min(max(x, half), _WIDTH - half) for x, half in zip(places, halves, strict=True)]
    touching = any(
        second - first < before + after + _GLYPH
        for (first, before), (second, after) in pairwise(zip(centres, halves, strict=True))
    )
    drawn = []
    for i, (label, x) in enumerate(zip(labels, centres, strict=True)):
        row = y + (22 if touching and i % 2 else 0)
        drawn.append(f'<text x="{x:.1f}" y="{row}" text-anchor="middle">{escape(label)}</text>')
    return "".join(drawn), 2 if touching else 1


def _room(labels: Sequence[str]) -> float:
    """What the longest label takes beside a bar, at most two fifths of the chart."""
    return min(0.4 * _WIDTH, max(len(label) for label in labels) * _GLYPH + 16)


def _label(text: str, x: float, y: float) -> str:
    """A label that ends at ``x``; one that would leave the chart is shortened, and shown whole when pointed at."""
    fitting = int((x - 8) / _GLYPH)
    shown = text if len(text) <= fitting else f"{text[: fitting - 1]}…"
    whole = f"<title>{escape(text)}</title>" if shown != text else ""
    return f'<text x="{x - 8:.1f}" y="{y}" text-anchor="end">{whole}{escape(shown)}</text>'


def _legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> str:
    return "".join(
        f'<rect class="{escape(kind)}" x="{x}" y="{y + i * 22}" width="14" height="14" rx="3"/>'
        f'<text x="{x + 20}" y="{y + i * 22 + 12}">{escape(label)}</text>'
        for i, (label, kind) in enumerate(entries)
    )
